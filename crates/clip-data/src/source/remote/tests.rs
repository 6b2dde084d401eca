//! A server on this machine that misbehaves as servers do.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use burn::data::dataloader::DataLoader;
#[cfg(feature = "parquet")]
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

#[cfg(feature = "parquet")]
use crate::testing::parquet;
use crate::{
    Corpus, CurateConfig, DataError, EvalLoader, EvalNeeds, FaultKind, LoaderConfig, PackConfig,
    Queries, ShardCount, ShardItem, ShardSet, Tokenizer, TrainLoader, curate, pack,
    testing::{compressed, png, shards, write},
};

/// What happens to a request.
#[derive(Clone, Copy)]
enum Mood {
    Well,
    Status(&'static str),
    /// The connection is closed unanswered.
    Reset,
    /// Fewer bytes than were announced.
    Short(usize),
    /// Some bytes, and then silence.
    Stall(usize),
    /// The whole file although a part was asked for.
    NoRange,
}

struct Server {
    address: String,
    files: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    /// Serves `files`; request after request goes through the moods, over and over.
    fn start(files: &[(&str, Vec<u8>)], moods: &'static [Mood]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let files = files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.clone()));
        let server = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            files: Arc::new(Mutex::new(files.collect())),
            requests: Arc::default(),
        };
        let (files, requests) = (Arc::clone(&server.files), Arc::clone(&server.requests));
        // It ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let files = Arc::clone(&files);
                let mood = moods[requests.fetch_add(1, Ordering::SeqCst) % moods.len()];
                std::thread::spawn(move || answer(stream, &files, mood));
            }
        });
        server
    }
}

/// Errors are the client hanging up.
fn answer(
    mut stream: TcpStream,
    files: &Mutex<HashMap<String, Vec<u8>>>,
    mood: Mood,
) -> Option<()> {
    if matches!(mood, Mood::Reset) {
        return None;
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let name = head.split(' ').nth(1)?.trim_start_matches('/');
    let field = |name: &str| {
        let mut lines = head.lines();
        lines.find_map(|line| {
            let (own, value) = line.split_once(": ")?;
            own.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let Some(body) = files.lock().unwrap().get(name).cloned() else {
        return write!(
            stream,
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        )
        .ok();
    };
    if let Mood::Status(status) = mood {
        return write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").ok();
    }
    // Its contents are its tag.
    let sum = body.iter().fold(0_u32, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u32::from(*byte))
    });
    let tag = format!("\"{sum:x}\"");
    if field("if-match").is_some_and(|wanted| wanted != tag) {
        let status = "412 Precondition Failed";
        return write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").ok();
    }
    let range = field("range").filter(|_| !matches!(mood, Mood::NoRange));
    let (start, end) = match &range {
        Some(range) => {
            let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            let end = last.parse().map_or(body.len(), |last: usize| last + 1);
            (first.parse().ok()?, end.min(body.len()))
        }
        None => (0, body.len()),
    };
    let status = if range.is_some() {
        "206 Partial Content"
    } else {
        "200 OK"
    };
    let part = body.get(start..end)?;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: {tag}\r\nConnection: close\r\n",
        part.len()
    )
    .ok()?;
    if range.is_some() {
        let (last, all) = (end - 1, body.len());
        write!(stream, "Content-Range: bytes {start}-{last}/{all}\r\n").ok()?;
    }
    stream.write_all(b"\r\n").ok()?;
    match mood {
        Mood::Short(bytes) => stream.write_all(&part[..bytes.min(part.len())]).ok()?,
        Mood::Stall(bytes) => {
            stream.write_all(&part[..bytes.min(part.len())]).ok()?;
            std::thread::sleep(Duration::from_secs(3));
        }
        _ => stream.write_all(part).ok()?,
    }
    Some(())
}

const ANGRY: &[Mood] = &[
    Mood::Status("500 Internal Server Error"),
    Mood::Short(9_000),
    Mood::Status("429 Too Many Requests"),
    Mood::Reset,
    Mood::NoRange,
    Mood::Short(0),
    Mood::Stall(20_000),
    Mood::Short(5_000),
];

fn config() -> LoaderConfig {
    LoaderConfig {
        batch: 8,
        image_size: 4,
        workers: 2,
        shuffle_buffer: 30,
        ..LoaderConfig::default()
    }
}

/// Local shards and the same ones on a server, one of each compression.
fn served(dir: &tempfile::TempDir, moods: &'static [Mood]) -> (ShardSet, ShardSet, Server) {
    let local = shards(dir, &[40, 30, 20]);
    let bytes = |shard: usize| std::fs::read(local.name(shard)).unwrap();
    let files = [
        ("d/s-0.tar", bytes(0)),
        ("d/s-1.tar", compressed::gzip(&bytes(1))),
        ("d/s-2.tar", compressed::zstandard(&bytes(2))),
    ];
    let server = Server::start(&files, moods);
    let remote = ShardSet::parse(&format!("{}/d/s-{{0..2}}.tar", server.address)).unwrap();
    (local, remote, server)
}

#[test]
fn a_server_that_fails_in_every_way_delivers_all_samples_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (local, remote, server) = served(&dir, ANGRY);
    let batches = |shards: ShardSet| -> Vec<_> {
        let eval = EvalLoader::new(shards, EvalNeeds::Captions, config()).unwrap();
        let batches = eval.iter().map(Result::unwrap).collect();
        assert_eq!(eval.faults().bad(), 0);
        batches
    };
    assert_eq!(batches(remote), batches(local));
    let requests = server.requests.load(Ordering::SeqCst);
    assert!(requests > ANGRY.len(), "{requests} requests");
}

#[test]
fn training_resumes_on_remote_shards() {
    let dir = tempfile::tempdir().unwrap();
    let (local, remote, _server) = served(&dir, &[Mood::Well, Mood::Well, Mood::Short(30_000)]);
    let tokenizer = Arc::new(Tokenizer::clip());
    let loader = |shards: &ShardSet, bytes: usize| {
        let config = LoaderConfig {
            shuffle_bytes: bytes,
            ..config()
        };
        TrainLoader::new(shards.clone(), Arc::clone(&tokenizer), config).unwrap()
    };
    let take = |loader: &TrainLoader, batches: usize| -> Vec<_> {
        loader.iter().take(batches).map(Result::unwrap).collect()
    };
    let whole = take(&loader(&local, usize::MAX), 12);
    for bytes in [usize::MAX, 2_000] {
        let first = loader(&remote, bytes);
        assert_eq!(take(&first, 5), whole[..5]);
        let rest = loader(&remote, bytes).starting_at(first.cursor()).unwrap();
        assert_eq!(take(&rest, 7), whole[5..]);
    }
}

/// All items, those that read them again from where they begin too.
fn all(set: &ShardSet) -> Vec<ShardItem> {
    let mut items = Vec::new();
    for (shard, count) in set.count().unwrap().iter().enumerate() {
        let before = items.len();
        let mut reader = set.open(shard).unwrap();
        while let Some((start, item)) = reader.next_located() {
            if before == items.len() && matches!(item, ShardItem::Sample(_)) {
                assert_eq!(set.read_at(shard, start), item);
            }
            items.push(item);
        }
        assert_eq!((items.len() - before) as u64, count.items);
    }
    items
}

#[test]
fn a_table_on_a_server_names_images_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("images")).unwrap();
    let mut rows = "filepath\ttitle\n".to_owned();
    let mut files = Vec::new();
    for number in 0..130_u8 {
        let name = format!("images/{number} a.png");
        std::fs::write(dir.path().join(&name), png(number)).unwrap();
        rows.extend([format!("./images/{number} a.png\t{number}\n")]);
        files.push((format!("d/images/{number}%20a.png"), png(number)));
    }
    rows += "images/gone.png\tgone\n";
    let table = write(&dir, "t.csv", rows.as_bytes());
    files.push(("d/t.csv".to_owned(), rows.into_bytes()));
    let files: Vec<_> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.clone()))
        .collect();
    let server = Server::start(&files, &[Mood::Well, Mood::Short(500), Mood::Reset]);
    let remote = ShardSet::parse(&format!("{}/d/t.csv", server.address)).unwrap();
    let local = ShardSet::parse(&table.display().to_string()).unwrap();
    let items = all(&remote);
    assert_eq!(items.len(), 131);
    assert!(
        matches!(&items[130], ShardItem::Fault(FaultKind::UnreadableFile, key) if key == "images/gone.png")
    );
    assert_eq!(items, all(&local));
}

#[test]
fn names_in_a_table_are_paths_or_addresses() {
    let set = super::Remote::default();
    let table = set.object("https://host/a/b/t.csv").unwrap();
    for (name, expected) in [
        ("1.jpg", "https://host/a/b/1.jpg"),
        ("./c/1.jpg", "https://host/a/b/c/1.jpg"),
        ("../c//1.jpg", "https://host/a/c/1.jpg"),
        ("/c/1.jpg", "https://host/c/1.jpg"),
        ("../../../1.jpg", "https://host/1.jpg"),
        ("s3://bucket/1.jpg", "s3://bucket/1.jpg"),
        // Names with what a URL can't have, which is read back as the same name.
        ("50% [a]~#1?.jpg", "https://host/a/b/50%25 [a]~%231%3F.jpg"),
    ] {
        assert_eq!(table.named(name).unwrap().to_string(), expected);
    }
}

#[cfg(feature = "parquet")]
#[test]
fn a_parquet_file_on_a_server_is_read_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    // Noise, so that the file takes more than one part.
    let picture = |number: u8| {
        let mut bytes = png(number);
        let mut noise = vec![0; 4_000];
        ChaCha8Rng::seed_from_u64(u64::from(number)).fill_bytes(&mut noise);
        bytes.extend(noise);
        bytes
    };
    let rows: Vec<_> = (0..60_u8)
        .map(|number| {
            (
                format!("k{number}"),
                picture(number),
                Some(number.to_string()),
            )
        })
        .collect();
    let bytes = parquet(&rows, 25);
    let local = write(&dir, "r.parquet", &bytes);
    let local = ShardSet::parse(&local.display().to_string()).unwrap();
    let moods: &[Mood] = &[
        Mood::Well,
        Mood::Short(30_000),
        Mood::Status("503 Service Unavailable"),
        Mood::NoRange,
    ];
    let server = Server::start(&[("r.parquet", bytes)], moods);
    let remote = ShardSet::parse(&format!("{}/r.parquet", server.address)).unwrap();
    assert_eq!(remote.len(), 3);
    assert_eq!(all(&remote), all(&local));
}

#[test]
fn a_missing_and_a_dead_object_are_named() {
    let server = Server::start(&[("a.tar", vec![0; 4000])], &[Mood::Short(0)]);
    let reason = |file: &str| {
        let set = ShardSet::parse(&format!("{}/{file}", server.address)).unwrap();
        clip_files::one_line(&set.count().unwrap_err())
    };
    let missing = reason("b.tar");
    assert!(
        missing.contains("/b.tar: ") && missing.contains("there is no such file"),
        "{missing}"
    );
    let before = server.requests.load(Ordering::SeqCst);
    let dead = reason("a.tar");
    assert!(
        dead.contains("/a.tar: ") && dead.contains("gave up after 8 tries"),
        "{dead}"
    );
    assert!(server.requests.load(Ordering::SeqCst) >= before + 8);
}

#[test]
fn an_object_that_changes_while_it_is_read_is_not_mixed() {
    let dir = tempfile::tempdir().unwrap();
    let local = shards(&dir, &[400]);
    let bytes = std::fs::read(local.name(0)).unwrap();
    let server = Server::start(&[("s.tar", bytes.clone())], &[Mood::Short(10_000)]);
    let set = ShardSet::parse(&format!("{}/s.tar", server.address)).unwrap();
    let mut reader = set.open(0).unwrap();
    let first = reader.next().unwrap();
    assert!(matches!(&first, ShardItem::Sample(sample) if sample.key == "k0"));
    let mut other = bytes;
    other[600] ^= 1;
    server
        .files
        .lock()
        .unwrap()
        .insert("s.tar".to_owned(), other);
    let last = reader.last().unwrap();
    assert!(
        matches!(last, ShardItem::Fault(FaultKind::UnreadableShard, _)),
        "{last:?}"
    );
}

#[test]
fn sizes_beside_the_shards_save_reading_them_to_count() {
    let dir = tempfile::tempdir().unwrap();
    let local = shards(&dir, &[5, 6]);
    let bytes = |shard: usize| std::fs::read(local.name(shard)).unwrap();
    let sizes = br#"{"s-0.tar": 5, "s-1.tar": 6}"#.to_vec();
    let files = [
        ("s-0.tar", bytes(0)),
        ("s-1.tar", bytes(1)),
        ("sizes.json", sizes),
    ];
    let server = Server::start(&files, &[Mood::Well]);
    let set = ShardSet::parse(&format!("{}/s-{{0..1}}.tar", server.address)).unwrap();
    let told = |items| ShardCount {
        samples: items,
        items,
        told: true,
    };
    assert_eq!(set.count().unwrap(), [told(5), told(6)]);
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
}

/// Some bytes of an object, and then none for more tries than are made. The first request is that for `sizes.json`.
const DYING: &[Mood] = &[
    Mood::Well,
    Mood::Short(20_000),
    Mood::Short(0),
    Mood::Short(0),
    Mood::Short(0),
    Mood::Short(0),
    Mood::Short(0),
    Mood::Short(0),
    Mood::Short(0),
    Mood::Short(0),
];

#[test]
fn a_shard_whose_server_dies_while_it_is_counted_is_no_smaller_shard() {
    let dir = tempfile::tempdir().unwrap();
    let local = shards(&dir, &[90]);
    let bytes = std::fs::read(local.name(0)).unwrap();
    let server = Server::start(&[("s.tar", bytes)], DYING);
    let set = ShardSet::parse(&format!("{}/s.tar", server.address)).unwrap();
    let error = clip_files::one_line(&set.count().unwrap_err());
    assert!(
        error.contains("/s.tar: its samples can't be counted"),
        "{error}"
    );
}

#[test]
fn nothing_is_made_of_a_shard_whose_server_dies() {
    let dir = tempfile::tempdir().unwrap();
    let local = shards(&dir, &[90]);
    let bytes = std::fs::read(local.name(0)).unwrap();
    let out = dir.path().join("out");
    let refused = |make: &dyn Fn(&ShardSet) -> Result<(), DataError>| {
        // None of these counts it first.
        let server = Server::start(&[("s.tar", bytes.clone())], &DYING[1..]);
        let set = ShardSet::parse(&format!("{}/s.tar", server.address)).unwrap();
        let error = make(&set).unwrap_err();
        assert!(
            matches!(&error, DataError::Unread { shards } if shards.ends_with("/s.tar")),
            "{error}"
        );
        assert!(!out.exists());
    };
    refused(&|set| {
        let corpus = Corpus {
            shards: Some(set.clone()),
            ..Corpus::default()
        };
        corpus.read(|_| true)
    });
    refused(&|set| pack(set, &PackConfig::default(), &out).map(|_| ()));
    let queries = Queries::new(["1"], "test").unwrap();
    refused(&|set| curate(set, &queries, &CurateConfig::default(), &out).map(|_| ()));
}

#[test]
fn addresses_that_name_no_file_are_refused() {
    for (address, reason) in [
        ("http://host", "names no file"),
        ("s3:///a.tar", "names no file"),
        ("https://host/a.tar?token=x", "`?`"),
    ] {
        let error = ShardSet::parse(address).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
