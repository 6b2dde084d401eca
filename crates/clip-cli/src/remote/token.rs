use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// The environment variable that holds the token.
const VARIABLE: &str = "CLIP_DEVICE_TOKEN";

/// Where the token is that a device elsewhere asks for. It isn't an argument itself, for a machine's users see each
/// other's arguments.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct TokenArgs {
    /// A file with the token that lets a run use a machine's devices; without it, the token is in the environment
    /// variable `CLIP_DEVICE_TOKEN`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// Whether a file is named.
    pub(crate) fn is_given(&self) -> bool {
        self.token_file.is_some()
    }

    /// The token, without the line's end that editors add.
    ///
    /// # Errors
    /// When there is none, with how to make one.
    pub(crate) fn read(&self) -> Result<String> {
        let (token, place) = match &self.token_file {
            Some(path) => {
                let text = fs::read_to_string(path)
                    .with_context(|| format!("cannot read the token in {}", path.display()))?;
                (text, path.display().to_string())
            }
            None => match std::env::var(VARIABLE) {
                Ok(token) => (token, VARIABLE.to_owned()),
                Err(std::env::VarError::NotUnicode(_)) => {
                    bail!("the token in {VARIABLE} is not valid UTF-8")
                }
                Err(std::env::VarError::NotPresent) => bail!(
                    "devices are shared with a token only: make one with `openssl rand -hex 32 > FILE`, and give \
                     both sides `--token-file FILE` or its content in {VARIABLE}"
                ),
            },
        };
        let token = token.trim();
        ensure!(!token.is_empty(), "the token in {place} is empty");
        Ok(token.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_a_file_holds_without_its_last_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let args = TokenArgs {
            token_file: Some(path.clone()),
        };
        let error = args.read().unwrap_err();
        assert!(error.to_string().contains("cannot read the token"));
        fs::write(&path, "\n").unwrap();
        let error = args.read().unwrap_err().to_string();
        assert!(error.contains("is empty"), "{error}");
        fs::write(&path, "a token\r\n").unwrap();
        assert_eq!(args.read().unwrap(), "a token");
    }
}
