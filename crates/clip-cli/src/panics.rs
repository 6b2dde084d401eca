//! Panics of Burn that are no defects.

use std::{panic, thread};

/// The names of the threads on which Burn keeps a device's queue begin like this.
const QUEUES: &str = "DS";

/// From now on, a panic with which Burn reports a device that stopped isn't printed: the training ends with an error
/// that names the device, or goes on without it. `-v` shows both.
///
/// In the queue of a device, only another machine's ends in such an error for sure. A GPU's may be the last that is heard
/// of a run, for Burn may wait for what the queue then never does: without other machines it is printed.
pub(crate) fn leave_those_of_devices_to_errors(other_machines: bool) {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let queue = thread::current()
            .name()
            .is_some_and(|name| name.starts_with(QUEUES));
        if (queue && other_machines) || clip_train::computes_on_device() {
            log::debug!("{info}");
        } else {
            print(info);
        }
    }));
}
