//! How much memory is free, as Linux tells it in files.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// What this machine or its container has free, in bytes; `None` where the system doesn't tell it as a file.
pub(super) fn free_bytes() -> Option<u64> {
    free_bytes_of(Path::new("/"))
}

/// That of the system whose files are under `root`.
fn free_bytes_of(root: &Path) -> Option<u64> {
    let info = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let machine = 1024 * number(&info, "MemAvailable:")?;
    let groups = groups(root).into_iter();
    Some(
        groups
            .filter_map(|group| group.free())
            .fold(machine, u64::min),
    )
}

/// A control group, which limits the memory of its processes together.
struct Group {
    folder: PathBuf,
    files: &'static Files,
}

/// How a version of control groups names its files and their keys.
struct Files {
    limit: &'static str,
    used: &'static str,
    /// Keys of `memory.stat` that count the pages of files in memory, which make room when it is wanted.
    cached: [&'static str; 2],
}

const VERSION_1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cached: ["total_inactive_file", "total_active_file"],
};
const VERSION_2: Files = Files {
    limit: "memory.max",
    used: "memory.current",
    cached: ["inactive_file", "active_file"],
};

impl Group {
    /// What its processes may still take; `None` without a limit, which is the word `max` or more than any machine has.
    fn free(&self) -> Option<u64> {
        let read = |file: &str| fs::read_to_string(self.folder.join(file)).ok();
        let bytes = |file: &str| read(file)?.trim().parse::<u64>().ok();
        let (limit, used) = (bytes(self.files.limit)?, bytes(self.files.used)?);
        let stat = read("memory.stat").unwrap_or_default();
        let cached = self
            .files
            .cached
            .iter()
            .filter_map(|key| number(&stat, key));
        Some(limit.saturating_sub(used.saturating_sub(cached.sum())))
    }
}

/// The groups that this process is in, each with those around it. A container may see its own as the outermost, and be told
/// the name that it has outside: of the folders on the way, those that aren't there are none.
fn groups(root: &Path) -> Vec<Group> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mounts = root.join("sys/fs/cgroup");
    let mut groups = Vec::new();
    for (mount, controller, files) in [
        (mounts.clone(), "", &VERSION_2),
        (mounts.join("memory"), "memory", &VERSION_1),
    ] {
        let mut names = own.lines().filter_map(|line| {
            let (controllers, name) = line.split_once(':')?.1.split_once(':')?;
            let has_memory = controllers.split(',').any(|name| name == controller);
            has_memory.then_some(name)
        });
        let mut folder = mount.clone();
        let outermost = Group {
            folder: mount,
            files,
        };
        groups.push(outermost);
        // A group outside of what a container sees is told as `/../other`.
        let inner = Path::new(names.next().unwrap_or_default()).components();
        for part in inner.filter(|part| matches!(part, Component::Normal(_))) {
            folder.push(part);
            let folder = folder.clone();
            groups.push(Group { folder, files });
        }
    }
    groups
}

/// The number after a key at the beginning of a line.
fn number(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    let mut line = lines.find_map(|mut words| (words.next() == Some(key)).then_some(words))?;
    line.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIBIBYTE: u64 = 1 << 30;

    /// What is free in gibibytes, of 32 that the machine has, where there are these files too.
    fn free(files: &[(&str, String)]) -> u64 {
        let root = tempfile::tempdir().unwrap();
        let machine = "MemTotal: 67108864 kB\nMemAvailable:   33554432 kB\n".to_owned();
        for (path, text) in files.iter().chain(&[("proc/meminfo", machine)]) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        free_bytes_of(root.path()).unwrap() / GIBIBYTE
    }

    fn gibibytes(count: u64) -> String {
        format!("{}\n", count * GIBIBYTE)
    }

    #[test]
    fn what_a_container_read_from_files_is_free() {
        let own = ("proc/self/cgroup", "0::/\n".to_owned());
        let limit = ("sys/fs/cgroup/memory.max", gibibytes(16));
        let used = ("sys/fs/cgroup/memory.current", gibibytes(15));
        let cached = format!(
            "anon {GIBIBYTE}\nfile {}\ninactive_file {}\nactive_file {}",
            14 * GIBIBYTE,
            10 * GIBIBYTE,
            2 * GIBIBYTE
        );
        let mut files = vec![own, limit, used, ("sys/fs/cgroup/memory.stat", cached)];
        assert_eq!(free(&files), 13);
        files.pop();
        assert_eq!(free(&files), 1);
        files[1].1 = "max\n".to_owned();
        assert_eq!(free(&files), 32);
        assert_eq!(free(&[]), 32);
    }

    #[test]
    fn the_first_version_of_control_groups_has_other_names() {
        let cached = format!(
            "inactive_file 5\ntotal_inactive_file {}\ntotal_active_file {}\n",
            4 * GIBIBYTE,
            GIBIBYTE
        );
        // As Docker's: its own folder is the outermost, and has another name outside.
        let mut files = vec![
            (
                "proc/self/cgroup",
                "5:cpu,cpuacct:/a\n4:memory:/docker/0a1b\n0::/\n".to_owned(),
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", gibibytes(8)),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", gibibytes(7)),
            ("sys/fs/cgroup/memory/memory.stat", cached),
        ];
        assert_eq!(free(&files), 6);
        // No limit.
        files[1].1 = "9223372036854771712\n".to_owned();
        assert_eq!(free(&files), 32);
    }

    #[test]
    fn the_narrowest_of_nested_groups_counts() {
        let own = "0::/../user.slice/run.scope\n".to_owned();
        let mut files = vec![("proc/self/cgroup", own)];
        for (file, count) in [
            ("sys/fs/cgroup/user.slice/memory.max", 8),
            ("sys/fs/cgroup/user.slice/memory.current", 6),
            ("sys/fs/cgroup/user.slice/run.scope/memory.max", 4),
            ("sys/fs/cgroup/user.slice/run.scope/memory.current", 1),
        ] {
            files.push((file, gibibytes(count)));
        }
        assert_eq!(free(&files), 2);
        files[1].1 = gibibytes(30);
        assert_eq!(free(&files), 3);
    }
}
