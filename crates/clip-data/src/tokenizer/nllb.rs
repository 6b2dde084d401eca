//! The language of a text, which NLLB's tokenizers say beside it.

use serde_json::{Map, Value};
use tokenizers::{Tokenizer, processors::template::TemplateProcessing};

/// The class of `transformers` for them, and its name before version 5.
const CLASSES: [&str; 2] = ["NllbTokenizer", "NllbTokenizerFast"];
/// What texts are taken for when no file says it.
const USUAL_LANGUAGE: &str = "eng_Latn";
const END: &str = "</s>";

/// Has NLLB's tokenizers put around a text what their class does, whatever their own file says: the language in front,
/// or, as they once did, at the end. Others stay as they are.
///
/// # Errors
/// Why that can't be.
pub(super) fn name_language(
    tokenizer: &mut Tokenizer,
    config: &Map<String, Value>,
) -> Result<(), String> {
    let text = |key| config.get(key).and_then(Value::as_str);
    if !text("tokenizer_class").is_some_and(|class| CLASSES.contains(&class)) {
        return Ok(());
    }
    let language = text("src_lang").unwrap_or(USUAL_LANGUAGE);
    let template = if config.get("legacy_behaviour") == Some(&Value::Bool(true)) {
        format!("$A {END} {language}")
    } else {
        format!("{language} $A {END}")
    };
    let special = [language, END].map(|token| match tokenizer.token_to_id(token) {
        Some(id) => Ok((token.to_owned(), id)),
        None => Err(format!(
            "it has no token `{token}`, which stands beside every text"
        )),
    });
    let special = special.into_iter().collect::<Result<Vec<_>, _>>()?;
    let template = TemplateProcessing::builder()
        .try_single(template)?
        .special_tokens(special)
        .build()
        .map_err(|error| error.to_string())?;
    tokenizer.with_post_processor(Some(template));
    Ok(())
}
