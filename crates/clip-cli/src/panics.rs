//! Panics of Burn that are no defects.

use std::{panic, thread};

/// The names of the threads on which Burn keeps a device's queue begin like this.
const QUEUES: &str = "DS";

/// From now on, a panic with which Burn reports a device that stopped isn't printed: the training ends with an error
/// that names the device, or goes on without it. `-v` shows both.
pub(crate) fn leave_those_of_devices_to_errors() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let queue = thread::current()
            .name()
            .is_some_and(|name| name.starts_with(QUEUES));
        if queue || clip_train::computes_on_device() {
            log::debug!("{info}");
        } else {
            print(info);
        }
    }));
}
