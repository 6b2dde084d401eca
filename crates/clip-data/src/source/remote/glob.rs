//! Names with wildcards in stores that tell what they hold.

use futures_util::TryStreamExt;
use glob::{MatchOptions, Pattern};
use object_store::path::Path;

use super::{Remote, RemoteObject, address, patience::Patience, split};

/// As a shell matches names, and [`glob::glob`] those of local files.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

impl Remote {
    /// The objects that a URL names, sorted: one, or where it has wildcards and the store can be listed, all that match.
    pub(in crate::source) fn objects(&self, url: &str) -> Result<Vec<RemoteObject>, String> {
        let is_store = ["s3://", "gs://", "az://"]
            .iter()
            .any(|scheme| url.starts_with(scheme));
        if !is_store || !url.contains(['*', '?', '[']) {
            return self.object(url).map(|object| vec![object]);
        }
        let (base, path) = split(&url.replace('?', "%3F"))
            .map(|(base, path)| (base.to_owned(), path.to_owned()))?;
        // What is written as `%2A` is a wildcard too: no store's names need one that isn't.
        let path = Path::from_url_path(path).map_err(|error| error.to_string())?;
        let pattern = Pattern::new(path.as_ref()).map_err(|error| error.to_string())?;
        let client = self.client()?;
        let store = client.store(&base)?;
        let wild = path
            .parts()
            .position(|part| part.as_ref().contains(['*', '?', '[']));
        let folder: Path = path.parts().take(wild.unwrap_or(0)).collect();
        // The rest of a single level need not be listed by what lies deeper.
        let is_last = wild.is_some_and(|wild| wild + 1 == path.parts_count());
        let patience = Patience::default();
        let listed = patience.ask(url, async || {
            if is_last {
                return Ok(store.list_with_delimiter(Some(&folder)).await?.objects);
            }
            store.list(Some(&folder)).try_collect().await
        });
        let runtime = client.runtime.as_ref().ok_or("the connection was closed")?;
        let objects = runtime
            .block_on(listed)
            .map_err(|error| format!("cannot list it: {error}"))?;
        let mut paths: Vec<Path> = objects.into_iter().map(|object| object.location).collect();
        paths.retain(|found| *found == path || pattern.matches_with(found.as_ref(), OPTIONS));
        if paths.is_empty() {
            return Err("no file matches".to_owned());
        }
        paths.sort_unstable();
        Ok(paths
            .into_iter()
            .map(|path| RemoteObject {
                url: address(&base, &path).into(),
                path,
                store: store.clone(),
                client: client.clone(),
            })
            .collect())
    }
}
