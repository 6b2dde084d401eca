//! Which backend `clip` is built with: asked for by name, or the strongest that this machine can use.

use anyhow::{Result, bail};

use crate::cargo::Usage;
use crate::machine::Machine;

/// A backend of Burn that `clip` can be built with; the name is the feature of `clip-cli`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Cpu,
    Wgpu,
    Vulkan,
    Metal,
    Cuda,
}

/// What `--backend` asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Auto,
    This(Backend),
}

pub(crate) const NAMES: &str = "auto, cpu, wgpu, vulkan, metal or cuda";

/// Debian's packages for the Vulkan loader and for Mesa's drivers, the software one among them.
const VULKAN_REMEDY: &str = "install the Vulkan loader and your GPU's driver (Debian and Ubuntu: `apt-get install libvulkan1 mesa-vulkan-drivers`; \
     Fedora: `dnf install vulkan-loader mesa-vulkan-drivers`; NVIDIA: its own driver brings one)";

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Cuda => "cuda",
        }
    }

    /// Fails with the remedy where this backend cannot work on the machine.
    pub(crate) fn check(self, machine: &Machine) -> Result<()> {
        let os = machine.os.as_str();
        match self {
            Self::Metal if os != "macos" => bail!(
                "the metal backend needs macOS, and this is {os}: use `--backend wgpu`, or `--backend auto`"
            ),
            Self::Cuda if os == "macos" => bail!(
                "the cuda backend needs an NVIDIA GPU, and macOS has no driver for one: use `--backend metal`"
            ),
            Self::Cuda if os == "linux" && !machine.nvidia => bail!(
                "the cuda backend needs an NVIDIA GPU and its driver, and libcuda.so.1 with /proc/driver/nvidia is not on this machine: \
                 install the driver (`nvidia-smi` must list the GPU; in a container, start it with the GPU), or use `--backend auto`"
            ),
            Self::Vulkan if os == "macos" => {
                bail!("the vulkan backend is for Linux and Windows: on macOS use `--backend metal`")
            }
            Self::Wgpu | Self::Vulkan if os == "linux" && !machine.vulkan_loader => {
                bail!(
                    "the {} backend needs Vulkan, and libvulkan.so.1 is not on this machine: {VULKAN_REMEDY}, or use `--backend cpu`",
                    self.name()
                )
            }
            _ => Ok(()),
        }
    }

    /// The strongest backend that should work on the machine, with the reason in words.
    ///
    /// CUDA is taken only where the LLVM that its build needs is already here: fetching it can fail late.
    pub(crate) fn strongest(machine: &Machine) -> (Self, String) {
        let cuda_hint = if machine.nvidia {
            "; `--backend cuda` is stronger here: its build downloads LLVM first"
        } else {
            ""
        };
        if machine.os == "macos" {
            return (Self::Metal, "macOS".to_owned());
        }
        if machine.nvidia && machine.cuda_llvm {
            return (Self::Cuda, "an NVIDIA GPU with its driver".to_owned());
        }
        match &machine.gpu {
            Some(driver) if machine.vulkan_loader => (
                Self::Wgpu,
                format!("a GPU, driver {driver}, with Vulkan{cuda_hint}"),
            ),
            Some(driver) => (
                Self::Cpu,
                format!(
                    "a GPU, driver {driver}, but no libvulkan.so.1 to reach it through{cuda_hint}"
                ),
            ),
            None => (Self::Cpu, "no GPU found".to_owned()),
        }
    }
}

impl Wish {
    /// Takes `--backend NAME` or `--backend=NAME` out of the arguments; what follows `--` is not looked at.
    pub(crate) fn take(args: &mut Vec<String>) -> Result<Self> {
        let mut wish = Self::Auto;
        let mut at = 0;
        while at < args.len() && args[at] != "--" {
            let name = if args[at] == "--backend" {
                if at + 1 == args.len() {
                    bail!(Usage(format!("--backend needs a value: {NAMES}")));
                }
                args.remove(at);
                args.remove(at)
            } else if let Some(name) = args[at].strip_prefix("--backend=") {
                let name = name.to_owned();
                args.remove(at);
                name
            } else {
                at += 1;
                continue;
            };
            wish = Self::parse(&name)?;
        }
        Ok(wish)
    }

    fn parse(name: &str) -> Result<Self> {
        Ok(Self::This(match name {
            "auto" => return Ok(Self::Auto),
            "cpu" => Backend::Cpu,
            "wgpu" => Backend::Wgpu,
            "vulkan" => Backend::Vulkan,
            "metal" => Backend::Metal,
            "cuda" => Backend::Cuda,
            _ => bail!(Usage(format!(
                "there is no backend `{name}`: it is one of {NAMES}"
            ))),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux() -> Machine {
        Machine {
            os: "linux".to_owned(),
            ..Machine::default()
        }
    }

    fn taken(args: &[&str]) -> Result<(Wish, Vec<String>)> {
        let mut args = args.iter().map(|&arg| arg.to_owned()).collect();
        Ok((Wish::take(&mut args)?, args))
    }

    #[test]
    fn backend_flag_is_taken_and_the_rest_forwarded() -> Result<()> {
        let (wish, rest) = taken(&["pretrain", "--steps", "3", "--backend", "cpu", "--json"])?;
        assert_eq!(wish, Wish::This(Backend::Cpu));
        assert_eq!(rest, ["pretrain", "--steps", "3", "--json"]);
        let (wish, rest) = taken(&["pretrain", "--backend=wgpu"])?;
        assert_eq!((wish, rest.len()), (Wish::This(Backend::Wgpu), 1));
        let (wish, rest) = taken(&["classify", "--", "--backend", "x"])?;
        assert_eq!((wish, rest.len()), (Wish::Auto, 4));
        Ok(())
    }

    #[test]
    fn unknown_or_missing_backend_is_wrong_usage() {
        for args in [&["--backend", "tpu"][..], &["--backend"], &["--backend="]] {
            let error = taken(args).map(|_| ()).expect_err("refused");
            assert!(error.downcast_ref::<Usage>().is_some(), "{error}");
            assert!(
                error
                    .to_string()
                    .contains("cpu, wgpu, vulkan, metal or cuda"),
                "{error}"
            );
        }
    }

    #[test]
    fn auto_prefers_what_surely_works() {
        let strongest = |machine: Machine| Backend::strongest(&machine);
        assert_eq!(strongest(linux()).0, Backend::Cpu);
        assert_eq!(
            strongest(Machine {
                os: "macos".to_owned(),
                ..linux()
            })
            .0,
            Backend::Metal
        );
        let nvidia = Machine {
            nvidia: true,
            gpu: Some("nvidia".to_owned()),
            ..linux()
        };
        let (backend, why) = strongest(nvidia.clone());
        assert_eq!(backend, Backend::Cpu);
        assert!(why.contains("--backend cuda"), "{why}");
        assert_eq!(
            strongest(Machine {
                vulkan_loader: true,
                ..nvidia.clone()
            })
            .0,
            Backend::Wgpu
        );
        assert_eq!(
            strongest(Machine {
                cuda_llvm: true,
                ..nvidia
            })
            .0,
            Backend::Cuda
        );
        assert_eq!(
            strongest(Machine {
                vulkan_loader: true,
                ..linux()
            })
            .0,
            Backend::Cpu
        );
    }

    #[test]
    fn every_choice_of_auto_passes_its_own_check() {
        for bits in 0..16_u8 {
            for os in ["linux", "macos", "windows"] {
                let machine = Machine {
                    os: os.to_owned(),
                    nvidia: bits & 1 != 0,
                    vulkan_loader: bits & 2 != 0,
                    gpu: (bits & 4 != 0).then(|| "amdgpu".to_owned()),
                    cuda_llvm: bits & 8 != 0,
                };
                let (backend, _) = Backend::strongest(&machine);
                assert!(
                    backend.check(&machine).is_ok(),
                    "{backend:?} on {machine:?}"
                );
            }
        }
    }

    #[test]
    fn a_backend_that_cannot_work_names_the_remedy() {
        let refused = |backend: Backend| backend.check(&linux()).expect_err("refused").to_string();
        assert!(refused(Backend::Wgpu).contains("apt-get install libvulkan1"));
        assert!(refused(Backend::Vulkan).contains("--backend cpu"));
        assert!(refused(Backend::Cuda).contains("nvidia-smi"));
        assert!(refused(Backend::Metal).contains("needs macOS"));
        assert!(Backend::Cpu.check(&linux()).is_ok());
    }
}
