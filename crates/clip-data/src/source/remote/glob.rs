//! Names with wildcards in stores that tell what they hold.

use glob::{MatchOptions, Pattern};
use object_store::{ClientOptions, path::Path};

use super::{Remote, RemoteObject, address, split, store};

/// As a shell matches names, and [`glob::glob`] those of local files.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

impl Remote {
    /// The objects that a URL names, sorted: one, or where it has wildcards and the store can be listed, all that
    /// match.
    pub(in crate::source) fn objects(&self, url: &str) -> Result<Vec<RemoteObject>, String> {
        let (scheme, _) = url.split_once("://").unwrap_or_default();
        if !url.contains(['*', '?', '[']) || scheme.starts_with("http") {
            return self.object(url).map(|object| vec![object]);
        }
        let (base, path) = split(&url.replace('?', "%3F"))
            .map(|(base, path)| (base.to_owned(), path.to_owned()))?;
        // What is written as `%2A` is a wildcard too: no store's names need one that isn't.
        let path = Path::from_url_path(path).map_err(|error| error.to_string())?;
        let pattern = Pattern::new(path.as_ref()).map_err(|error| error.to_string())?;
        let client = self.client()?;
        let Some(listed) = store::writable(&base, ClientOptions::new())? else {
            return self.object(url).map(|object| vec![object]);
        };
        let is_wild = |part: &str| part.contains(['*', '?', '[']);
        let wild = path.parts().position(|part| is_wild(part.as_ref()));
        let folder: Path = path.parts().take(wild.unwrap_or(0)).collect();
        // What lies deeper than the last name need not be told.
        let flat = wild.is_some_and(|wild| wild + 1 == path.parts_count());
        let runtime = client.runtime.as_ref().ok_or("the connection was closed")?;
        let objects = runtime
            .block_on(store::list(&*listed, url, &folder, flat))
            .map_err(|error| format!("cannot list it: {error}"))?;
        let mut paths: Vec<Path> = objects.into_iter().map(|object| object.location).collect();
        paths.retain(|found| *found == path || pattern.matches_with(found.as_ref(), OPTIONS));
        if paths.is_empty() {
            return Err("no file matches".to_owned());
        }
        paths.sort_unstable();
        let store = client.store(&base)?;
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
