use std::str::FromStr;

use anyhow::{Context, Result};
use burn::tensor::Device;
use clip_model::ClipConfig;
use clip_train::{NamedDevice, config::RunConfig};

use super::{memory, teacher::RunTeacher};
use crate::{
    device::{self, Backend, DeviceName, Started},
    remote::{self, RemoteAddress, TokenArgs},
};

/// A device of this machine or of another, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AnyDevice {
    Here(DeviceName),
    Elsewhere(RemoteAddress),
}

impl FromStr for AnyDevice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if RemoteAddress::is_meant(text) {
            return text.parse().map(Self::Elsewhere);
        }
        text.parse().map(Self::Here)
    }
}

/// Where a run computes.
pub(super) struct Devices {
    /// A device of this machine, which has the model, its optimizer and the loss. What another machine does can be done
    /// again; what these hold would be lost with it.
    pub(super) main: Started,
    /// All that encode.
    pub(super) encoding: Vec<Encoding>,
}

/// A device that encodes parts of a batch.
pub(super) struct Encoding {
    name: String,
    device: Device,
    what: String,
    on_this_cpu: bool,
    on_other_machine: bool,
}

impl Devices {
    /// Starts and connects those of a list, or the one that was asked for in another way. The first of this machine has
    /// the model; where none is listed, it is this machine's own, which then encodes nothing.
    pub(super) fn open(
        list: &[AnyDevice],
        one: Option<DeviceName>,
        token: &TokenArgs,
    ) -> Result<Self> {
        let mut main = None;
        let mut encoding = Vec::with_capacity(list.len());
        for wanted in list {
            match wanted {
                AnyDevice::Here(name) => {
                    let started = device::open(Some(*name))?;
                    encoding.push(Encoding::here(&started));
                    main.get_or_insert(started);
                }
                AnyDevice::Elsewhere(address) => encoding.push(Encoding {
                    name: address.to_string(),
                    device: remote::open(address, token)?,
                    what: "another machine".to_owned(),
                    on_this_cpu: false,
                    on_other_machine: true,
                }),
            }
        }
        let main = match main {
            Some(main) => main,
            None if list.is_empty() => device::open(one)?,
            None => device::open(one)
                .context("the model stays on this machine, which needs a device for it")?,
        };
        if encoding.is_empty() {
            encoding.push(Encoding::here(&main));
        }
        Ok(Self { main, encoding })
    }

    pub(super) fn on_other_machines(&self) -> bool {
        self.encoding.iter().any(|one| one.on_other_machine)
    }

    /// For the training.
    pub(super) fn named(&self) -> Vec<NamedDevice> {
        let named = self.encoding.iter().map(|encoding| NamedDevice {
            name: encoding.name.clone(),
            device: encoding.device.clone(),
        });
        named.collect()
    }

    /// `cuda:0 (NVIDIA H100), remote://10.0.0.2:7861 (another machine)`.
    pub(super) fn described(&self) -> String {
        let all = self.encoding.iter();
        device::described(all.map(|encoding| (&encoding.name, encoding.what.clone())))
    }

    pub(super) fn count(&self) -> usize {
        self.encoding.len()
    }

    /// Whether all of them are this machine's processor, and share its memory.
    pub(super) fn are_this_cpu(&self) -> bool {
        self.encoding.iter().all(|encoding| encoding.on_this_cpu)
    }

    /// Sets into how many parts batches are cut, where the settings leave that to the devices.
    pub(super) fn divide(
        &self,
        config: &mut RunConfig,
        model: &ClipConfig,
        teacher: Option<&RunTeacher>,
    ) {
        config.threads = match (config.threads, &self.encoding[..]) {
            (0, [one]) if one.device == self.main.device => self.main.threads(),
            // Each device that is named gets a part of every batch, in a run that began with fewer too.
            (threads, all) => threads.max(all.len()),
        };
        if config.text_buckets == 0 {
            config.text_buckets = self.main.text_buckets();
        }
        memory::choose_chunk(config, model, teacher, self);
    }

    /// Says so where a run that goes on is cut as it began, for another kind of device.
    pub(super) fn tell_of_other_kind(&self, config: &RunConfig, goes_on: bool) {
        if goes_on && config.text_buckets == self.main.text_buckets_of_other_kind() {
            log::warn!(
                "batches stay cut as the run began (chunk = {}, threads = {}, text_buckets = {}), which suits another kind of \
                 device: `--set chunk=0 --set threads=0 --set text_buckets=0` chooses anew, and changes results by rounding",
                config.chunk,
                config.threads,
                config.text_buckets
            );
        }
    }
}

impl Encoding {
    fn here(started: &Started) -> Self {
        Self {
            name: started.name.to_string(),
            device: started.device.clone(),
            what: started.what.clone(),
            on_this_cpu: started.name.backend == Backend::Cpu,
            on_other_machine: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_from_addresses() {
        let here: AnyDevice = "cuda:1".parse().unwrap();
        assert!(matches!(here, AnyDevice::Here(name) if name.to_string() == "cuda:1"));
        let elsewhere: AnyDevice = "remote://gpu:7861".parse().unwrap();
        assert!(matches!(elsewhere, AnyDevice::Elsewhere(address) if address.port == 7861));
        let error = "ws://gpu:7861".parse::<AnyDevice>().unwrap_err();
        assert!(error.contains("remote://HOST:PORT"), "{error}");
        let error = "gpu".parse::<AnyDevice>().unwrap_err();
        assert!(error.contains("no backend `gpu`"), "{error}");
    }
}
