/// Whether the number behind a key is a share from 0 to 1. What is classified by name always is one, whatever its user
/// called the set.
pub fn is_share(key: &str) -> bool {
    let key = key.strip_prefix("ema_").unwrap_or(key);
    key.starts_with("zeroshot_") || !(key.ends_with("loss") || key.ends_with("_rank"))
}

/// A key of an evaluation in words: `i2t_r5` is `image→text R@5`.
pub fn label_of(key: &str) -> String {
    if let Some(key) = key.strip_prefix("ema_") {
        return format!("{}, averaged weights", label_of(key));
    }
    for (prefix, direction) in [("i2t_r", "image→text R@"), ("t2i_r", "text→image R@")] {
        if let Some(k) = key.strip_prefix(prefix)
            && k.parse::<u32>().is_ok()
        {
            return format!("{direction}{k}");
        }
    }
    if let Some(rest) = key.strip_prefix("zeroshot_") {
        let rest = rest.replace("top1", "top-1").replace("top5", "top-5");
        return format!("zero-shot {}", rest.replace('_', " "));
    }
    if key == "val_loss" {
        return "Loss".to_string();
    }
    key.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_words() {
        assert_eq!(label_of("zeroshot_top1_unseen"), "zero-shot top-1 unseen");
        assert_eq!(label_of("i2t_median_rank"), "i2t median rank");
    }

    #[test]
    fn a_labelled_sets_name_says_nothing_about_its_numbers() {
        for key in [
            "i2t_r1",
            "ema_t2i_r5",
            "zeroshot_top1_blossoms",
            "ema_zeroshot_top5_my_rank",
        ] {
            assert!(is_share(key), "{key}");
        }
        for key in [
            "val_loss",
            "ema_val_loss",
            "i2t_median_rank",
            "ema_t2i_median_rank",
        ] {
            assert!(!is_share(key), "{key}");
        }
    }
}
