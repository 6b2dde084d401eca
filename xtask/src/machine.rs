//! What this machine offers to the backends, found by looking at files: nothing is loaded or built.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo;

/// The parts of a machine that decide which backend works on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// `std::env::consts::OS`.
    pub(crate) os: String,
    /// An NVIDIA kernel driver runs and its user library `libcuda.so.1` can be loaded.
    pub(crate) nvidia: bool,
    /// `libvulkan.so.1` can be loaded.
    pub(crate) vulkan_loader: bool,
    /// The kernel driver of a graphics processor that is not one made by software.
    pub(crate) gpu: Option<String>,
    /// The LLVM that Burn's CUDA backend is built with has been unpacked in this account before.
    pub(crate) cuda_llvm: bool,
}

/// Kernel drivers of displays that have no graphics processor of their own behind them.
const DISPLAYS_ONLY: [&str; 12] = [
    "ast",
    "bochs-drm",
    "cirrus",
    "hyperv_drm",
    "mgag200",
    "qxl",
    "simple-framebuffer",
    "vgem",
    "virtio-pci",
    "virtio_gpu",
    "vkms",
    "vmwgfx",
];

/// Where loaders look for libraries on common systems, beside `LD_LIBRARY_PATH` and the loader's own cache.
const LIBRARY_FOLDERS: [&str; 10] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/local/lib",
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
];

impl Machine {
    /// Looks at the machine that this runs on.
    pub(crate) fn here() -> Self {
        let nvidia_kernel = ["/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg"]
            .iter()
            .any(|path| Path::new(path).exists());
        let nvidia = nvidia_kernel && library("libcuda.so.1");
        Self {
            os: std::env::consts::OS.to_owned(),
            nvidia,
            vulkan_loader: library("libvulkan.so.1"),
            gpu: gpu_driver(Path::new("/sys/class/drm"), Path::new("/dev/dri"))
                .or_else(|| nvidia.then(|| "nvidia".to_owned())),
            cuda_llvm: cuda_llvm(),
        }
    }
}

/// Whether the system's loader would find a library of this name.
fn library(name: &str) -> bool {
    let listed = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let folders = std::env::split_paths(&listed).chain(LIBRARY_FOLDERS.iter().map(PathBuf::from));
    if folders.into_iter().any(|folder| folder.join(name).exists()) {
        return true;
    }
    ["ldconfig", "/sbin/ldconfig"].iter().any(|ldconfig| {
        let printed = Command::new(ldconfig).arg("-p").output();
        printed.is_ok_and(|out| {
            String::from_utf8_lossy(&out.stdout)
                .lines()
                .any(|line| line.trim_start().starts_with(name))
        })
    })
}

/// The kernel driver of the first render node that belongs to hardware: nodes are named in `/dev/dri`, their drivers in `/sys/class/drm`.
fn gpu_driver(sys: &Path, dev: &Path) -> Option<String> {
    let mut nodes: Vec<_> = std::fs::read_dir(dev)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("renderD"))
        .collect();
    nodes.sort_unstable();
    nodes.iter().find_map(|node| {
        let driver = std::fs::read_link(sys.join(node).join("device/driver")).ok()?;
        let driver = driver.file_name()?.to_str()?.to_owned();
        (!DISPLAYS_ONLY.contains(&driver.as_str())).then_some(driver)
    })
}

/// Whether the LLVM release that the locked `tracel-llvm-bundler` downloads lies unpacked where it looks for it.
fn cuda_llvm() -> bool {
    let lock = std::fs::read_to_string(cargo::root().join("Cargo.lock")).unwrap_or_default();
    let Some(version) = locked_version(&lock, "tracel-llvm-bundler") else {
        return false;
    };
    let data = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".local/share")));
    data.is_some_and(|data| {
        data.join(format!(
            "tracel/tracel-llvm-{version}/.tracel-llvm-installed"
        ))
        .exists()
    })
}

/// The version that `Cargo.lock` holds of a package.
fn locked_version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let mut lines = lock
        .lines()
        .skip_while(|line| *line != format!("name = \"{package}\""));
    lines
        .nth(1)?
        .strip_prefix("version = \"")?
        .strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_version_reads_the_package_asked_for() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"a-b\"\nversion = \"2.3.4-5\"\n";
        assert_eq!(locked_version(lock, "a-b"), Some("2.3.4-5"));
        assert_eq!(locked_version(lock, "b"), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_software_display_is_not_a_gpu() -> std::io::Result<()> {
        let folder = std::env::temp_dir().join(format!("xtask-gpu-{}", std::process::id()));
        let (sys, dev) = (folder.join("sys"), folder.join("dev"));
        std::fs::create_dir_all(&dev)?;
        let mut found = Vec::new();
        for (node, driver) in [("renderD128", "virtio-pci"), ("renderD129", "amdgpu")] {
            std::fs::write(dev.join(node), "")?;
            std::fs::create_dir_all(sys.join(node).join("device"))?;
            std::os::unix::fs::symlink(
                format!("/sys/bus/pci/drivers/{driver}"),
                sys.join(node).join("device/driver"),
            )?;
            found.push(gpu_driver(&sys, &dev));
        }
        std::fs::remove_dir_all(&folder)?;
        assert_eq!(found, [None, Some("amdgpu".to_owned())]);
        Ok(())
    }
}
