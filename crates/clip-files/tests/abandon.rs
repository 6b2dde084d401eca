//! A process that is asked to end leaves nothing that it had begun; alone in its program, which can begin nothing
//! afterwards.

use std::{fs, sync::mpsc, thread};

use clip_files::{NewFolder, PathLock, UnfinishedFolder, abandon, replace, replace_with};

#[test]
fn what_was_begun_is_gone_and_what_was_whole_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    replace(&path("whole"), b"whole").unwrap();
    let folder = NewFolder::create(&path("folder")).unwrap();
    fs::write(folder.path().join("a"), b"half").unwrap();
    let other = UnfinishedFolder::create(&path("other.partial")).unwrap();
    fs::write(other.path().join("a"), b"half").unwrap();
    let lock = PathLock::try_take(&path("lock")).unwrap();

    let (tell, told) = mpsc::channel();
    let file = path("whole");
    thread::spawn(move || {
        replace_with(&file, |partial| {
            fs::write(partial, b"half")?;
            tell.send(()).unwrap();
            // Until the program ends.
            loop {
                thread::park();
            }
        })
    });
    told.recv().unwrap();
    // What is whole, and of the others what is begun, of two with its lock; and a lock of its own.
    let begun = if cfg!(unix) { 7 } else { 6 };
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), begun);
    abandon();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(fs::read(path("whole")).unwrap(), b"whole");
    // Dropping it would wait for the end.
    std::mem::forget((folder, other, lock));
}
