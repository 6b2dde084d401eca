//! What a store's errors mean for a user.

use std::{error::Error, io::ErrorKind};

use object_store::{Error as StoreError, client::HttpError};

/// Characters of an answer that isn't the store's own form.
const QUOTED: usize = 200;

/// Why a request came to nothing, and what to do about it.
pub(super) struct Reason {
    /// What is wrong that another try would not change; `None` where it may.
    pub(super) kind: Option<ErrorKind>,
    /// One line, which doesn't name what was asked for.
    pub(super) text: String,
}

impl Reason {
    /// Of an error about the object or folder at `url`.
    pub(super) fn of(error: &StoreError, url: &str) -> Self {
        let whole = error.to_string();
        let server = server(&whole);
        if let Some((status, body)) = status(&whole) {
            return Self::of_answer(status, &Answer::read(body), server, url);
        }
        let kind = match error {
            StoreError::NotFound { .. } => Some(ErrorKind::NotFound),
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
                Some(ErrorKind::PermissionDenied)
            }
            StoreError::InvalidPath { .. }
            | StoreError::NotSupported { .. }
            | StoreError::NotImplemented { .. } => Some(ErrorKind::Unsupported),
            _ => None,
        };
        if whole.contains("redirect without LOCATION") {
            return Self {
                kind: Some(ErrorKind::InvalidInput),
                text: "the bucket is in another region; set AWS_REGION to its own".to_owned(),
            };
        }
        let mut innermost: &dyn Error = error;
        let mut unreached = false;
        while let Some(source) = innermost.source() {
            unreached |= source.is::<HttpError>();
            innermost = source;
        }
        let text = match server {
            Some(server) if is_metadata(server) => no_credentials(url, &innermost.to_string()),
            Some(server) if unreached => {
                format!("cannot reach {server}, which should be up and the right one ({innermost})")
            }
            _ => one_line(&innermost.to_string()),
        };
        Self { kind, text }
    }

    fn of_answer(status: &str, answer: &Answer, server: Option<&str>, url: &str) -> Self {
        let number: u16 = status[..3].parse().unwrap_or_default();
        let told = answer.told(status);
        if server.is_some_and(is_metadata) {
            return Self {
                kind: (number < 500).then_some(ErrorKind::PermissionDenied),
                text: no_credentials(url, &told),
            };
        }
        let (kind, text) = match (number, answer.code.as_deref()) {
            (404, Some("NoSuchBucket" | "ContainerNotFound")) => (
                Some(ErrorKind::NotFound),
                format!(
                    "there is no such bucket ({told}); check its name, and that the store is the right one"
                ),
            ),
            (404, _) => (
                Some(ErrorKind::NotFound),
                format!("there is no such file ({told}); check the address"),
            ),
            (401 | 403, _) => (
                Some(ErrorKind::PermissionDenied),
                match credentials(url) {
                    Some(names) => {
                        format!("the store refuses it ({told}); check {names}, and what they allow")
                    }
                    None => format!("the server refuses it ({told})"),
                },
            ),
            // S3 says so of a client that sends too slowly.
            (400, Some("RequestTimeout")) | (408 | 409 | 425 | 429, _) => (None, told),
            (400..500, _) => (
                Some(ErrorKind::InvalidInput),
                format!("the server doesn't accept it ({told})"),
            ),
            _ => (None, told),
        };
        Self { kind, text }
    }

    /// Of a store that can't even be asked, for want of a setting.
    pub(super) fn unset(error: &StoreError, url: &str) -> String {
        let reason = error
            .source()
            .map_or_else(|| error.to_string(), ToString::to_string);
        match credentials(url) {
            Some(names) => format!("{}; check {names} in the environment", one_line(&reason)),
            None => one_line(&reason),
        }
    }
}

/// What a server says beside its status.
#[derive(Default)]
struct Answer {
    code: Option<String>,
    message: Option<String>,
}

impl Answer {
    /// S3's, Google's and Azure's XML, Google's JSON, or whatever it is.
    fn read(body: &str) -> Self {
        let element = |name: &str| {
            let (_, rest) = body.split_once(&format!("<{name}>"))?;
            let (text, _) = rest.split_once(&format!("</{name}>"))?;
            // Azure's message goes on with numbers of the request.
            text.lines().next().map(str::to_owned)
        };
        let code = element("Code");
        if code.is_some() {
            let message = element("Message");
            return Self { code, message };
        }
        let json: Option<serde_json::Value> = serde_json::from_str(body).ok();
        let message =
            json.and_then(|json| Some(json.pointer("/error/message")?.as_str()?.to_owned()));
        let plain = || (!body.trim_start().starts_with('<')).then(|| one_line(body));
        Self {
            code: None,
            message: message.or_else(plain).filter(|text| !text.is_empty()),
        }
    }

    fn told(&self, status: &str) -> String {
        let status = self.code.as_deref().unwrap_or(status);
        match &self.message {
            Some(message) if !status.ends_with(message.as_str()) => format!("{status}: {message}"),
            _ => status.to_owned(),
        }
    }
}

/// `503 Slow Down` and the body, of what [`object_store`] says of an answer.
fn status(text: &str) -> Option<(&str, &str)> {
    let (_, answer) = text.split_once("status code: ")?;
    let (status, body) = answer.split_once(": ").unwrap_or((answer, ""));
    let is_status = status.len() >= 3 && status.as_bytes()[..3].iter().all(u8::is_ascii_digit);
    is_status.then_some((status, body))
}

/// The scheme and host that a request went to.
fn server(text: &str) -> Option<&str> {
    let (_, request) = text.rsplit_once("Error performing ")?;
    let url = request.split(' ').nth(1)?;
    let host = url.find("://")? + 3;
    let end = url[host..]
        .find('/')
        .map_or(url.len(), |slash| host + slash);
    Some(&url[..end])
}

/// Whether it is the service that tells a cloud's machines their credentials.
fn is_metadata(server: &str) -> bool {
    server.contains("//169.254.") || server.contains("//metadata.google.internal")
}

fn no_credentials(url: &str, reason: &str) -> String {
    let names = credentials(url).unwrap_or("them");
    format!(
        "the environment has no credentials, and this machine's cloud gives none ({}); set {names}",
        one_line(reason)
    )
}

/// The variables that the stores' own tools read.
fn credentials(url: &str) -> Option<&'static str> {
    match url.split_once("://")?.0 {
        "s3" => Some("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        "gs" => Some("GOOGLE_APPLICATION_CREDENTIALS"),
        "az" => Some("AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"),
        _ => None,
    }
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(QUOTED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str, url: &str) -> Reason {
        let error = StoreError::Generic {
            store: "S3",
            source: text.to_owned().into(),
        };
        Reason::of(&error, url)
    }

    /// Answers of moto 5.2.5, Azurite 3.35.0 and fake-gcs-server.
    #[test]
    fn answers_of_stores_become_a_line_with_a_remedy() {
        let asked = "Error performing list request: Error performing GET http://127.0.0.1:5555/b?list-type=2 in 6.7ms - \
                     Server returned non-2xx status code: ";
        let forbidden = ErrorKind::PermissionDenied;
        for (answer, url, kind, words) in [
            (
                "404 Not Found: <?xml version=\"1.0\"?>\n<Error><Code>NoSuchBucket</Code><Message>The specified bucket \
                 does not exist</Message></Error>",
                "s3://b/a",
                Some(ErrorKind::NotFound),
                "there is no such bucket (NoSuchBucket: The specified bucket does not exist); check its name",
            ),
            (
                "404 Not Found: <Error><Code>BlobNotFound</Code><Message>The specified blob does not exist.\n\
                 RequestId:2ea4</Message></Error>",
                "az://b/a",
                Some(ErrorKind::NotFound),
                "there is no such file (BlobNotFound: The specified blob does not exist.); check the address",
            ),
            (
                "403 Forbidden: <Error><Code>InvalidAccessKeyId</Code><Message>No such key.</Message></Error>",
                "s3://b/a",
                Some(forbidden),
                "(InvalidAccessKeyId: No such key.); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ),
            (
                "400 Bad Request: {\"error\":{\"code\":400,\"message\":\"invalid uploadType\"}}\n",
                "gs://b/a",
                Some(ErrorKind::InvalidInput),
                "(400 Bad Request: invalid uploadType)",
            ),
            (
                "403 Forbidden: ",
                "https://host/a",
                Some(forbidden),
                "refuses it (403 Forbidden)",
            ),
            (
                "400 Bad Request: <Error><Code>RequestTimeout</Code></Error>",
                "s3://b/a",
                None,
                "RequestTimeout",
            ),
            (
                "503 Slow Down: <html><p>later</p></html>",
                "s3://b/a",
                None,
                "503 Slow Down",
            ),
        ] {
            let found = reason(&format!("{asked}{answer}"), url);
            assert_eq!(found.kind, kind, "{answer}");
            assert!(
                found.text.contains(words) && !found.text.contains('\n'),
                "{}",
                found.text
            );
        }
    }

    #[test]
    fn a_machine_without_credentials_is_told_which() {
        let asked = "Error performing PUT http://169.254.169.254/latest/api/token in 1ms - ";
        for (answer, kind) in [
            (
                "Server returned non-2xx status code: 404 Not Found: ",
                Some(ErrorKind::PermissionDenied),
            ),
            ("HTTP error: error sending request", None),
        ] {
            let found = reason(&format!("{asked}{answer}"), "s3://b/a");
            assert_eq!(found.kind, kind);
            assert!(
                found.text.contains("set AWS_ACCESS_KEY_ID"),
                "{}",
                found.text
            );
        }
    }
}
