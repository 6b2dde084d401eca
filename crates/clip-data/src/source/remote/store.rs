use std::{io, sync::Arc};

use object_store::{
    ClientOptions, ObjectMeta, ObjectStore, RetryConfig,
    aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder,
    http::HttpBuilder,
    list::{PaginatedListOptions, PaginatedListStore},
    multipart::MultipartStore,
    path::Path,
};

use super::{patience::Patience, reason::Reason};

/// A store that files can be written to, large ones in parts, and that tells what it has.
pub(super) trait Writable: ObjectStore + MultipartStore + PaginatedListStore {}

impl<S: ObjectStore + MultipartStore + PaginatedListStore> Writable for S {}

/// The files of a folder, and those of the folders in it unless it is to be `flat`. A page that doesn't come is asked
/// for again, and no other: there may be thousands.
pub(super) async fn list(
    store: &dyn Writable,
    url: &str,
    folder: &Path,
    flat: bool,
) -> io::Result<Vec<ObjectMeta>> {
    let prefix = format!("{folder}/");
    let prefix = (!folder.as_ref().is_empty()).then_some(prefix.as_str());
    let mut found = Vec::new();
    let mut page_token = None;
    loop {
        let page = Patience::default()
            .ask(url, async || {
                let options = PaginatedListOptions {
                    delimiter: flat.then_some("/".into()),
                    page_token: page_token.clone(),
                    ..PaginatedListOptions::default()
                };
                store.list_paginated(prefix, options).await
            })
            .await?;
        found.extend(page.result.objects);
        page_token = page.page_token;
        if page_token.is_none() {
            return Ok(found);
        }
    }
}

/// The store of a scheme and host or bucket; nothing is asked of it yet.
pub(super) fn of(base: &str, options: ClientOptions) -> Result<Arc<dyn ObjectStore>, String> {
    if let Some(store) = writable(base, options.clone())? {
        return Ok(store);
    }
    let store = HttpBuilder::new()
        .with_url(base)
        .with_client_options(patient(options))
        .with_retry(once())
        .build();
    store
        .map(|store| Arc::new(store) as _)
        .map_err(|error| Reason::unset(&error, base))
}

/// As [`of`], `None` if files are only read there.
pub(super) fn writable(
    base: &str,
    options: ClientOptions,
) -> Result<Option<Arc<dyn Writable>>, String> {
    let options = patient(options);
    let scheme = base.split("://").next().unwrap_or_default();
    let store: object_store::Result<Arc<dyn Writable>> = match scheme {
        "s3" => AmazonS3Builder::from_env()
            .with_url(base)
            // Not every store that speaks S3 removes several at once.
            .with_disable_bulk_delete(true)
            .with_client_options(options)
            .with_retry(once())
            .build()
            .map(|store| Arc::new(store) as _),
        "gs" => GoogleCloudStorageBuilder::from_env()
            .with_url(base)
            .with_client_options(options)
            .with_retry(once())
            .build()
            .map(|store| Arc::new(store) as _),
        "az" => MicrosoftAzureBuilder::from_env()
            .with_url(base)
            .with_client_options(options)
            .with_retry(once())
            .build()
            .map(|store| Arc::new(store) as _),
        _ => return Ok(None),
    };
    store.map(Some).map_err(|error| Reason::unset(&error, base))
}

fn patient(options: ClientOptions) -> ClientOptions {
    // An error says that the program chose its cryptography before, which is as good.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    options
        .with_connect_timeout(Patience::default().silence)
        .with_allow_http(true)
}

/// [`Patience`] tries again, and says so.
fn once() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    }
}
