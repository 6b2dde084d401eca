//! Zero-shot classifier heads, retrieval and their statistics.
