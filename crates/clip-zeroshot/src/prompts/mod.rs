//! What a classifier is told: class names, templates, and the prompts that they make together.

mod class_names;
mod entries;
mod product;
mod scanner;
mod templates;

pub use self::{
    class_names::{ClassNames, DuplicateNames},
    product::Prompts,
    templates::{Template, Templates},
};
