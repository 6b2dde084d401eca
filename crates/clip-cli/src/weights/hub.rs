//! Models of the Hugging Face hub.

use std::{
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, Result, anyhow, bail};
use clip_model::weights::{LAYOUTS, TOKENIZER_FILE};
use hf_hub::{
    Repo, RepoType,
    api::sync::{ApiBuilder, ApiRepo},
};
use sha2::{Digest, Sha256};

/// How a source says that it is on the hub.
const PREFIX: &str = "hf-hub:";

/// Where models are unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// Times that a broken download is taken up again before the program gives up.
const ATTEMPTS: u32 = 3;

/// The file or folder that a source means, downloaded if it is on the hub.
///
/// # Errors
/// If it is no model's name, or can't be downloaded.
pub(crate) fn locate(source: &str) -> Result<PathBuf> {
    match HubModel::parse(source) {
        Some(model) => model?.fetch(),
        None => Ok(PathBuf::from(source)),
    }
}

/// A model of the hub: `hf-hub:ORG/NAME`, with `@REVISION` for another than the newest.
#[derive(Debug, PartialEq)]
struct HubModel {
    name: String,
    revision: String,
}

impl HubModel {
    /// Nothing if the source isn't on the hub.
    ///
    /// # Errors
    /// If what follows the prefix is no model's name.
    fn parse(source: &str) -> Option<Result<Self>> {
        source.strip_prefix(PREFIX).map(str::parse)
    }

    /// Downloads what an import needs into the hub's cache, and gives the file of weights there. What is in the cache
    /// is not downloaded again, and a download that broke off goes on where it stopped.
    fn fetch(&self) -> Result<PathBuf> {
        let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| ENDPOINT.to_owned());
        let token = std::env::var("HF_TOKEN").ok();
        let mut builder = ApiBuilder::from_env()
            .with_progress(io::stderr().is_terminal() && log::log_enabled!(log::Level::Info));
        if token.is_some() {
            builder = builder.with_token(token);
        }
        let api = builder.build()?;
        let repo = Repo::with_revision(self.name.clone(), RepoType::Model, self.revision.clone());
        let repo = api.repo(repo);
        let info = repo.info().with_context(|| {
            format!(
                "cannot find {} at {endpoint}: is the name right, is it public (or HF_TOKEN set), and the network up?",
                self.name
            )
        })?;
        let files: Vec<&str> = info
            .siblings
            .iter()
            .map(|file| file.rfilename.as_str())
            .collect();
        let has = |name: &str| files.contains(&name);
        let layout = LAYOUTS.iter().find_map(|(config, weights)| {
            let weights = weights.iter().find(|name| has(name) && has(config))?;
            Some((*config, *weights))
        });
        let Some((config, weights)) = layout else {
            bail!(
                "{} holds no model that can be imported: neither OpenCLIP's layout nor transformers' (it has {})",
                self.name,
                files.join(", ")
            );
        };
        for name in [config, "preprocessor_config.json", TOKENIZER_FILE] {
            if has(name) {
                self.download(&repo, name)?;
            }
        }
        let path = self.download(&repo, weights)?;
        for shard in shards(&path)? {
            self.download(&repo, &shard)?;
        }
        Ok(path)
    }

    fn download(&self, repo: &ApiRepo, name: &str) -> Result<PathBuf> {
        log::info!("{}: {name}", self.name);
        let mut failed = 0;
        let path = loop {
            match repo.get(name) {
                Ok(path) => break path,
                Err(error) => {
                    failed += 1;
                    if failed == ATTEMPTS {
                        return Err(anyhow!(error).context(format!(
                            "cannot download {name} of {}: run the same command again, and it goes on where it stopped",
                            self.name
                        )));
                    }
                    log::warn!("{name} broke off ({error}); going on");
                }
            }
        };
        verify(&path)?;
        Ok(path)
    }
}

impl FromStr for HubModel {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let is_part = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        match name.split_once('/') {
            Some((organisation, model))
                if is_part(organisation) && is_part(model) && !revision.is_empty() =>
            {
                Ok(Self {
                    name: name.to_owned(),
                    revision: revision.to_owned(),
                })
            }
            _ => bail!(
                "`{PREFIX}{text}` names no model: write {PREFIX}ORGANISATION/NAME, or {PREFIX}ORGANISATION/NAME@REVISION"
            ),
        }
    }
}

/// The files that an index names; none if it is no index.
fn shards(path: &Path) -> Result<Vec<String>> {
    if !path.to_string_lossy().ends_with(".index.json") {
        return Ok(Vec::new());
    }
    let json =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let index: serde_json::Value =
        serde_json::from_str(&json).with_context(|| format!("{} is no index", path.display()))?;
    let map = index["weight_map"].as_object().into_iter().flatten();
    let mut names: Vec<String> = map
        .filter_map(|(_, file)| file.as_str().map(str::to_owned))
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Compares a large file with the digest that the hub named, which is the name of its copy in the cache.
fn verify(path: &Path) -> Result<()> {
    let read = || format!("cannot read {}", path.display());
    let copy = path.canonicalize().with_context(read)?;
    let digest = copy
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(()); // a small file, which git numbers otherwise
    }
    let mut hasher = Sha256::new();
    let mut file = fs::File::open(&copy).with_context(read)?;
    io::copy(&mut file, &mut hasher).with_context(read)?;
    let found: String = hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if found == digest {
        return Ok(());
    }
    // Gone from the cache, so that the next attempt starts anew.
    let _ = fs::remove_file(&copy);
    let _ = fs::remove_file(path);
    bail!(
        "{} is damaged (SHA-256 {found}, expected {digest}): run the same command again",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_of_the_hub_has_an_organisation_a_name_and_maybe_a_revision() {
        let parsed =
            |source| HubModel::parse(source).map(|model| model.map_err(|error| error.to_string()));
        let model = |revision: &str| HubModel {
            name: "org/ViT-B-32".to_owned(),
            revision: revision.to_owned(),
        };
        assert_eq!(parsed("hf-hub:org/ViT-B-32"), Some(Ok(model("main"))));
        assert_eq!(parsed("hf-hub:org/ViT-B-32@v1"), Some(Ok(model("v1"))));
        assert_eq!(parsed("org/ViT-B-32"), None);
        for wrong in [
            "hf-hub:",
            "hf-hub:org",
            "hf-hub:org/a/b",
            "hf-hub:../b",
            "hf-hub:org/a@",
        ] {
            assert!(
                parsed(wrong)
                    .unwrap()
                    .unwrap_err()
                    .contains("ORGANISATION/NAME"),
                "{wrong}"
            );
        }
    }
}
