//! Backends and their devices. No other file of the program names a backend.

use std::{
    fmt,
    panic::{self, AssertUnwindSafe, catch_unwind},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Result, anyhow, bail, ensure};
use burn::tensor::{Device, Tensor};
use clip_train::innermost_cause;

/// A backend of Burn; the name is the feature of this package that compiles it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Cuda,
    Metal,
    Vulkan,
    Wgpu,
    Cpu,
}

impl Backend {
    /// All, the strongest first.
    const ALL: [Self; 5] = [Self::Cuda, Self::Metal, Self::Vulkan, Self::Wgpu, Self::Cpu];

    /// Those of this build, the strongest first.
    pub(crate) fn compiled_in() -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(|backend| backend.is_compiled_in())
    }

    fn is_compiled_in(self) -> bool {
        match self {
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Metal => cfg!(feature = "metal"),
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Cpu => cfg!(feature = "cpu"),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::Wgpu => "wgpu",
            Self::Cpu => "cpu",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Cuda => {
                "install NVIDIA's driver (`nvidia-smi` must list the GPU; a container must be started with it) and CUDA's \
                 toolkit, of which kernels take libdevice (CUDA_PATH says where it is, if not in /usr/local/cuda)"
            }
            Self::Metal => "metal needs macOS and its GPU",
            Self::Vulkan | Self::Wgpu => {
                "install the GPU's driver with Vulkan (Debian and Ubuntu: `apt-get install libvulkan1 \
                 mesa-vulkan-drivers`), and set XDG_RUNTIME_DIR"
            }
            Self::Cpu => "please report this",
        }
    }

    /// Every device of the backend. Panics where its driver is missing.
    #[allow(
        unused_variables,
        clippy::unnecessary_wraps,
        reason = "which arms exist depends on the features"
    )]
    fn enumerate(self) -> Vec<Device> {
        use burn::tensor::DeviceType;
        let kind = match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => DeviceType::Cuda,
            #[cfg(feature = "metal")]
            Self::Metal => DeviceType::Metal,
            #[cfg(feature = "vulkan")]
            Self::Vulkan => DeviceType::Vulkan,
            #[cfg(feature = "wgpu")]
            Self::Wgpu => DeviceType::Wgpu,
            #[cfg(feature = "cpu")]
            Self::Cpu => DeviceType::Flex,
            #[allow(
                unreachable_patterns,
                reason = "with every feature on, there is no other"
            )]
            _ => return Vec::new(),
        };
        Device::enumerate(kind).into_vec()
    }
}

/// A device by name: a backend, and which of its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceName {
    pub(crate) backend: Backend,
    /// From 0; the backend's first choice if nothing is said.
    pub(crate) index: Option<usize>,
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.backend.name())?;
        self.index.map_or(Ok(()), |index| write!(f, ":{index}"))
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, Some(index)),
            None => (text, None),
        };
        let backend = Backend::ALL
            .into_iter()
            .find(|backend| backend.name() == name);
        let backend = backend.ok_or_else(|| {
            let names = Backend::ALL.map(Backend::name).join(", ");
            format!("there is no backend `{name}`: it is one of {names}")
        })?;
        let index = index.map(str::parse).transpose();
        let index = index.map_err(|_| {
            format!("`{text}` names no device: after the colon comes a number, such as `{name}:0`")
        })?;
        Ok(Self { backend, index })
    }
}

/// A device that has computed something.
#[derive(Clone, Debug)]
pub(crate) struct Started {
    /// How to ask for it.
    pub(crate) name: DeviceName,
    /// The device, without autodiff.
    pub(crate) device: Device,
    /// What it is, in words.
    pub(crate) what: String,
    /// Whether it is a processor that plays a GPU, as Mesa's llvmpipe does.
    in_software: bool,
}

impl Started {
    /// Whether kernels are compiled for it when they are first needed.
    pub(crate) fn is_gpu(&self) -> bool {
        self.name.backend != Backend::Cpu
    }

    /// Parts of a batch worth encoding at the same time: a processor runs much of a step on one core alone, a GPU is
    /// filled by one part.
    pub(crate) fn threads(&self) -> usize {
        match self.name.backend {
            Backend::Cpu => std::thread::available_parallelism().map_or(1, usize::from),
            Backend::Cuda | Backend::Metal | Backend::Vulkan | Backend::Wgpu => 1,
        }
    }

    /// Groups of similar length worth splitting captions into: a processor gains by less padding, a GPU loses by more
    /// launches.
    pub(crate) fn text_buckets(&self) -> usize {
        if self.is_cpu() { 4 } else { 1 }
    }

    /// What [`text_buckets`](Self::text_buckets) is on the other kind of device.
    pub(crate) fn text_buckets_of_other_kind(&self) -> usize {
        if self.is_cpu() { 1 } else { 4 }
    }

    fn is_cpu(&self) -> bool {
        self.name.backend == Backend::Cpu
    }
}

/// Starts a device: the one that is named, or the first of the strongest backend of this build that works here. A
/// processor that plays a GPU comes last: its kernels take many times as long as the CPU backend's.
///
/// # Errors
/// When its backend is not part of this build or has no such device, with the remedy.
pub(crate) fn open(name: Option<DeviceName>) -> Result<Started> {
    match name {
        Some(name) => open_named(name),
        None => first_that_works(Backend::compiled_in().map(|backend| {
            open_named(DeviceName {
                backend,
                index: None,
            })
        })),
    }
}

/// The first device that is none in software, or else the first in software, or else why the first backend has none.
fn first_that_works(tried: impl Iterator<Item = Result<Started>>) -> Result<Started> {
    let (mut in_software, mut failed) = (None, Vec::new());
    for tried in tried {
        match tried {
            Ok(started) if started.in_software => _ = in_software.get_or_insert(started),
            Ok(started) => {
                for error in failed {
                    log::warn!("{error:#}. {} takes its place", started.name);
                }
                return Ok(started);
            }
            Err(error) => failed.push(error),
        }
    }
    if let Some(started) = in_software {
        return Ok(started);
    }
    Err(failed.into_iter().next().unwrap_or_else(|| {
        anyhow!(
            "this build of clip has no backend: build it with one of the features cpu, wgpu, vulkan, metal, cuda"
        )
    }))
}

fn open_named(name: DeviceName) -> Result<Started> {
    let found = devices_of(name.backend)?;
    let place = name.index.unwrap_or(0);
    let count = found.len();
    let device = found.into_iter().nth(place).ok_or_else(|| {
        anyhow!(
            "there is no device `{name}`: {} has {count}, numbered from 0; `clip devices` lists them",
            name.backend.name()
        )
    })?;
    start(name, device)
}

/// Starts those of a list, or the one that was asked for in another way.
///
/// # Errors
/// As [`open`].
#[cfg(feature = "remote")]
pub(crate) fn open_listed(list: &[DeviceName], one: Option<DeviceName>) -> Result<Vec<Started>> {
    if list.is_empty() {
        return Ok(vec![open(one)?]);
    }
    list.iter().map(|name| open(Some(*name))).collect()
}

/// `cuda:0 (NVIDIA H100), cuda:1 (NVIDIA H100)`, of names and what they are.
pub(crate) fn described<N: fmt::Display>(devices: impl IntoIterator<Item = (N, String)>) -> String {
    let all = devices.into_iter();
    let all = all.map(|(name, what)| format!("{name} ({what})"));
    all.collect::<Vec<_>>().join(", ")
}

/// Starts every device of this build; of those that fail, the reasons.
pub(crate) fn open_all() -> (Vec<Started>, Vec<anyhow::Error>) {
    let (mut started, mut failed) = (Vec::new(), Vec::new());
    for backend in Backend::compiled_in() {
        let found = devices_of(backend).unwrap_or_else(|error| {
            failed.push(error);
            Vec::new()
        });
        for (index, device) in found.into_iter().enumerate() {
            let index = Some(index);
            match start(DeviceName { backend, index }, device) {
                Ok(device) => started.push(device),
                Err(error) => failed.push(error),
            }
        }
    }
    (started, failed)
}

/// The devices of a backend, at least one.
fn devices_of(backend: Backend) -> Result<Vec<Device>> {
    let name = backend.name();
    if !backend.is_compiled_in() {
        let compiled: Vec<_> = Backend::compiled_in().map(Backend::name).collect();
        bail!(
            "this build of clip has no {name} backend, but {}: build it with `cargo xtask clip --backend {name} ...` \
             or `--features {name}`",
            compiled.join(", ")
        );
    }
    let found = without_panic(|| backend.enumerate()).map_err(|reason| {
        anyhow!(
            "the {name} backend does not start ({reason}): {}",
            backend.remedy()
        )
    })?;
    ensure!(
        !found.is_empty(),
        "the {name} backend finds no device: {}",
        backend.remedy()
    );
    Ok(found)
}

/// Lets a device compute a sum that is known, with a function that GELU takes and CUDA has in its toolkit alone.
fn start(name: DeviceName, device: Device) -> Result<Started> {
    let tried = without_panic(|| {
        let sum = (Tensor::<1>::zeros([4], &device).erf() + 2.0).sum();
        sum.try_into_vec_as::<f32>()
            .map_err(|error| innermost_cause(&error.to_string()).to_owned())
            .and_then(|sum| match sum[..] {
                [8.0] => Ok(describe(&device)),
                _ => Err(format!("4 times 2 is {sum:?} for it")),
            })
    });
    match tried.and_then(|tried| tried) {
        Ok((what, in_software)) => Ok(Started {
            name,
            device,
            what,
            in_software,
        }),
        Err(reason) => bail!(
            "device `{name}` does not work ({reason}): {}, or take another with --device",
            name.backend.remedy()
        ),
    }
}

/// What a device is, and whether it is a GPU in software.
#[cfg(feature = "gpu")]
fn describe(device: &Device) -> (String, bool) {
    match device.identity() {
        Some(identity) if identity.physical.is_none() => {
            (format!("{}, a GPU in software", identity.name), true)
        }
        Some(identity) => (identity.name, false),
        None => (processor(), false),
    }
}

#[cfg(not(feature = "gpu"))]
fn describe(_device: &Device) -> (String, bool) {
    (processor(), false)
}

fn processor() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let s = if threads == 1 { "" } else { "s" };
    format!("this processor, {threads} thread{s}")
}

/// Runs what panics where a driver is missing, and returns the first panic's first line instead of printing it.
fn without_panic<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let message = Arc::new(Mutex::new(None));
    let hook = panic::take_hook();
    let first = Arc::clone(&message);
    panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or("unknown reason");
        let line = text.lines().next().unwrap_or_default().trim().to_owned();
        // A backend's own thread may panic first, with the real reason.
        first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(line);
    }));
    let outcome = catch_unwind(AssertUnwindSafe(run));
    panic::set_hook(hook);
    outcome.map_err(|_| {
        let mut message = message.lock().unwrap_or_else(PoisonError::into_inner);
        message
            .take()
            .unwrap_or_else(|| "unknown reason".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_backends_with_a_number() {
        let cuda = "cuda:1".parse::<DeviceName>().unwrap();
        assert_eq!((cuda.backend, cuda.index), (Backend::Cuda, Some(1)));
        assert_eq!(cuda.to_string(), "cuda:1");
        assert_eq!("cpu".parse::<DeviceName>().unwrap().index, None);
        let error = "gpu".parse::<DeviceName>().unwrap_err();
        assert!(error.contains("cuda, metal, vulkan, wgpu, cpu"), "{error}");
        for bad in ["cpu:", "cpu:x", "cpu:-1", ""] {
            assert!(bad.parse::<DeviceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error_with_a_remedy() {
        for backend in Backend::ALL {
            let index = Some(1000);
            let error = open(Some(DeviceName { backend, index }))
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("build it with")
                    || error.contains("clip devices")
                    || error.contains("install"),
                "{error}"
            );
        }
    }

    fn started(backend: Backend, in_software: bool) -> Started {
        let name = DeviceName {
            backend,
            index: None,
        };
        Started {
            name,
            device: Device::flex(),
            what: String::new(),
            in_software,
        }
    }

    #[test]
    fn a_gpu_is_the_default_unless_it_is_none() {
        let first = |tried: Vec<Result<Started>>| {
            let first = first_that_works(tried.into_iter())?;
            anyhow::Ok(first.name.backend)
        };
        let gpu = Ok(started(Backend::Wgpu, false));
        let llvmpipe = || Ok(started(Backend::Wgpu, true));
        let cpu = || Ok(started(Backend::Cpu, false));
        assert_eq!(first(vec![gpu, cpu()]).unwrap(), Backend::Wgpu);
        assert_eq!(first(vec![llvmpipe(), cpu()]).unwrap(), Backend::Cpu);
        let alone = vec![Err(anyhow!("no driver")), llvmpipe()];
        assert_eq!(first(alone).unwrap(), Backend::Wgpu);
        let broken = vec![Err(anyhow!("no driver")), cpu()];
        assert_eq!(first(broken).unwrap(), Backend::Cpu);
        let none = vec![Err(anyhow!("no driver")), Err(anyhow!("no device"))];
        assert_eq!(first(none).unwrap_err().to_string(), "no driver");
        let error = first(Vec::new()).unwrap_err().to_string();
        assert!(error.contains("features cpu, wgpu"), "{error}");
    }

    #[test]
    fn a_panic_becomes_its_first_line() {
        let reason = without_panic(|| panic!("no driver\nat line 3")).unwrap_err();
        assert_eq!(reason, "no driver");
    }
}
