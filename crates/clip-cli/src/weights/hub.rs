//! Models of the Hugging Face hub.

use std::{
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use clip_data::TOKENIZER_CONFIG_FILE;
use clip_files::sha256;
use clip_model::{
    published::Published,
    weights::{CONFIG_FILE, LAYOUTS, TOKENIZER_FILE},
};
use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{Api, ApiBuilder, ApiError, ApiRepo},
};

use super::source::HubModel;

/// Where models are unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// Set where nothing may be downloaded, for all of the hub's tools.
const OFFLINE: &str = "HF_HUB_OFFLINE";

/// Times that a file is asked for before the program gives up; each goes on where the one before stopped.
const ATTEMPTS: u32 = 3;

/// Downloads what an import needs into the hub's cache, and gives the file of weights there. What is in the cache is not
/// downloaded again, and a download that broke off goes on where it stopped.
///
/// # Errors
/// If there is no such model, or none that can be imported; without a network, or where `HF_HUB_OFFLINE` forbids to use
/// it, unless the cache has it whole; what the hub refuses.
pub(super) fn fetch(model: &HubModel) -> Result<PathBuf> {
    Download::of(model)?.run()
}

/// As [`fetch`], of OpenCLIP's configuration alone; `None` if the model is in another layout.
///
/// # Errors
/// As there.
pub(super) fn fetch_config(model: &HubModel) -> Result<Option<PathBuf>> {
    Download::of(model)?.config()
}

/// A model on its way into the cache.
struct Download<'a> {
    model: &'a HubModel,
    endpoint: String,
    api: Api,
    repo: ApiRepo,
    cache: Cache,
}

impl<'a> Download<'a> {
    fn of(model: &'a HubModel) -> Result<Self> {
        ensure!(
            std::env::var_os("HF_HOME").is_some() || dirs::home_dir().is_some(),
            "this account has no home folder for the hub's cache: name one in the environment variable HF_HOME"
        );
        let mut builder = ApiBuilder::from_env()
            .with_progress(io::stderr().is_terminal() && log::log_enabled!(log::Level::Info));
        // Otherwise the one that `hf auth login` left in the cache.
        if let Ok(token) = std::env::var("HF_TOKEN") {
            builder = builder.with_token(Some(token));
        }
        let api = builder.build()?;
        Ok(Self {
            model,
            endpoint: std::env::var("HF_ENDPOINT").unwrap_or_else(|_| ENDPOINT.to_owned()),
            repo: api.repo(repository(model)),
            api,
            cache: Cache::from_env(),
        })
    }

    fn run(&self) -> Result<PathBuf> {
        if is_offline() {
            return self.cached().with_context(|| self.forbidden());
        }
        let info = match self.repo.info() {
            Ok(info) => info,
            Err(error) => {
                let cached = status(&error).is_none().then(|| self.cached()).flatten();
                let Some(path) = cached else {
                    return Err(self.explain(error));
                };
                log::warn!(
                    "{} does not answer ({error}): taking {} from the cache",
                    self.endpoint,
                    self.model.name
                );
                return Ok(path);
            }
        };
        let files: Vec<&str> = info
            .siblings
            .iter()
            .map(|file| file.rfilename.as_str())
            .collect();
        let has = |name: &str| files.contains(&name);
        let Some((config, weights)) = layout(has, self.model.tag) else {
            bail!(
                "{} at {} holds no model that can be imported, neither in OpenCLIP's layout nor in transformers': \
                 it has {}",
                self.model.name,
                self.endpoint,
                files.join(", ")
            );
        };
        let beside = ["preprocessor_config.json", "special_tokens_map.json"];
        let tokenizer = [TOKENIZER_FILE, TOKENIZER_CONFIG_FILE];
        for name in config.into_iter().chain(beside).chain(tokenizer) {
            if has(name) {
                self.file(&info.sha, name)?;
            }
        }
        let path = self.file(&info.sha, weights)?;
        for shard in shards(&path)? {
            self.file(&info.sha, &shard)?;
        }
        Ok(path)
    }

    fn config(&self) -> Result<Option<PathBuf>> {
        let cached = || self.cache.repo(repository(self.model)).get(CONFIG_FILE);
        if is_offline() {
            return Ok(cached());
        }
        match self.repo.info() {
            Ok(info) => {
                let mut files = info.siblings.iter();
                let has = files.any(|file| file.rfilename == CONFIG_FILE);
                has.then(|| self.file(&info.sha, CONFIG_FILE)).transpose()
            }
            // Whether the weights are there too is seen when they are taken.
            Err(error) => match cached().filter(|_| status(&error).is_none()) {
                Some(path) => Ok(Some(path)),
                None => Err(self.explain(error)),
            },
        }
    }

    /// The weights in the cache, if all of them are.
    fn cached(&self) -> Option<PathBuf> {
        let cache = self.cache.repo(repository(self.model));
        let (_, weights) = layout(|name| cache.get(name).is_some(), self.model.tag)?;
        let path = cache.get(weights)?;
        let shards = shards(&path).ok()?;
        let whole = shards.iter().all(|shard| cache.get(shard).is_some());
        whole.then_some(path)
    }

    /// A file of the model in the cache, as of a commit.
    fn file(&self, commit: &str, name: &str) -> Result<PathBuf> {
        let cache = self.cache.repo(repository(self.model));
        let path = cache.pointer_path(commit).join(name);
        if path.exists() {
            return Ok(path);
        }
        log::info!("{}: {name}", self.model.name);
        let mut failed = 0;
        let path = loop {
            match self.repo.download(name) {
                Ok(path) => break path,
                Err(error) if matches!(status(&error), Some(400..=415)) => {
                    return Err(self.explain(error));
                }
                Err(error) => {
                    failed += 1;
                    if failed == ATTEMPTS {
                        return Err(anyhow!(error).context(format!(
                            "cannot download {name} of {}: run the same command again, and it goes on where it stopped",
                            self.model.name
                        )));
                    }
                    log::warn!("{name} broke off ({error}); going on");
                    // No end of the file to go on with.
                    if matches!(error, ApiError::InvalidResume) || status(&error) == Some(416) {
                        self.forget_part(name);
                    }
                }
            }
        };
        verify(&path)?;
        Ok(path)
    }

    /// Removes what a broken download left of a file.
    fn forget_part(&self, name: &str) {
        if let Ok(metadata) = self.api.metadata(&self.repo.url(name)) {
            let cache = self.cache.repo(repository(self.model));
            let part = cache.blob_path(metadata.etag()).with_extension("part");
            // If it can't be removed, the next attempt fails for the same reason and says so.
            let _ = fs::remove_file(part);
        }
    }

    /// Why nothing is downloaded that the cache lacks.
    fn forbidden(&self) -> String {
        format!(
            "the cache {} does not hold {} (revision {}) whole, and the environment variable {OFFLINE} forbids to download \
             it: unset {OFFLINE} where there is a network, or name in HF_HOME a cache that has it",
            self.cache.path().display(),
            self.model.name,
            self.model.revision
        )
    }

    /// What is wrong, and what to do about it.
    fn explain(&self, error: ApiError) -> Error {
        let (name, endpoint) = (&self.model.name, &self.endpoint);
        let token = "HF_TOKEN";
        let remedy = match (status(&error), &error) {
            // The hub answers 401, too, for what isn't there.
            (Some(401 | 404), _) => format!(
                "there is no model {name} (revision {}) at {endpoint} that is open to everybody: check the name; if it is \
                 private or gated, accept its terms at {endpoint}/{name} and put a token of {endpoint}/settings/tokens \
                 into the environment variable {token}",
                self.model.revision
            ),
            (Some(403), _) => format!(
                "{endpoint} does not give {name} to this token: accept its terms at {endpoint}/{name}, and let the token \
                 in {token} read gated models"
            ),
            (Some(429), _) => {
                format!(
                    "{endpoint} wants a pause: try again later, or set {token} to be let through more often"
                )
            }
            (None, ApiError::RequestError(_)) => format!(
                "cannot reach {endpoint} for {name}: is the network up? HF_ENDPOINT names a mirror, HTTPS_PROXY a proxy"
            ),
            _ => format!("cannot read about {name} at {endpoint}"),
        };
        anyhow!(error).context(remedy)
    }
}

/// As the hub's own library reads it.
fn is_offline() -> bool {
    let value = std::env::var(OFFLINE).unwrap_or_default();
    ["1", "ON", "YES", "TRUE"]
        .iter()
        .any(|on| value.eq_ignore_ascii_case(on))
}

fn repository(model: &HubModel) -> Repo {
    Repo::with_revision(model.name.clone(), RepoType::Model, model.revision.clone())
}

/// The configuration and the weights to take, the first that are there. OpenCLIP has the configuration of what it knows by a
/// tag, and some such have none with them, or a file of their own and another's configuration beside it.
fn layout(
    has: impl Fn(&str) -> bool,
    tag: Option<Published>,
) -> Option<(Option<&'static str>, &'static str)> {
    if let Some(file) = tag.and_then(|it| it.file) {
        return has(file).then_some((None, file));
    }
    let whole = LAYOUTS.iter().find_map(|(config, weights)| {
        let weights = weights.iter().find(|name| has(name) && has(config))?;
        Some((Some(*config), *weights))
    });
    let (_, open_clips) = LAYOUTS[0];
    let bare = || open_clips.iter().find(|name| tag.is_some() && has(name));
    whole.or_else(|| Some((None, *bare()?)))
}

/// The status that the hub answered with, if it answered.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
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
    // What another wrote must not lead out of the cache.
    let outside = |name: &&String| Path::new(name.as_str()).file_name() != Some(name.as_ref());
    if let Some(name) = names.iter().find(outside) {
        bail!(
            "{} names `{name}`, which is no file beside it",
            path.display()
        );
    }
    Ok(names)
}

/// Compares a large file with the digest that the hub named, which is the name of its copy in the cache.
fn verify(path: &Path) -> Result<()> {
    let read = || format!("cannot read {}", path.display());
    let copy = path.canonicalize().with_context(read)?;
    let digest = copy.file_name().unwrap_or_default().to_string_lossy();
    if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(()); // a small file, which git numbers otherwise
    }
    let found = sha256::of_file(&copy).with_context(read)?.sha256;
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
    use clip_model::published;

    use super::*;

    #[test]
    fn a_tag_may_name_a_file_beside_anothers_configuration() {
        let named = published::of("ViTamin-S").next();
        let files = ["config.json", "model.safetensors", "pytorch_model.bin"];
        let has = |name: &str| files.contains(&name);
        assert_eq!(layout(has, named), Some((None, "pytorch_model.bin")));
        let others = Some((Some("config.json"), "model.safetensors"));
        assert_eq!(layout(has, None), others);
        assert_eq!(layout(|name| name == "config.json", named), None);
    }

    #[test]
    fn an_index_names_files_beside_it_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors.index.json");
        let index = |file: &str| {
            let json = serde_json::json!({"weight_map": {"a": "one.safetensors", "b": file}});
            fs::write(&path, json.to_string()).unwrap();
            shards(&path).map_err(|error| error.to_string())
        };
        assert_eq!(
            index("two.safetensors").unwrap(),
            ["one.safetensors", "two.safetensors"]
        );
        for wrong in ["../two.safetensors", "/two.safetensors", "..", "a/two", ""] {
            assert!(
                index(wrong).unwrap_err().contains("no file beside it"),
                "{wrong}"
            );
        }
    }
}
