//! Panics of Burn that are no defects, and what becomes of those that are.

use std::{panic, thread};

use crate::logger;

/// The names of the threads on which Burn keeps a device's queue begin like this.
const QUEUES: &str = "DS";
/// The name of the thread whose panic ends the program.
const MAIN: &str = "main";

/// From now on, a panic with which Burn reports a device that stopped isn't printed: the training ends with an error
/// that names the device, or goes on without it. `-v` shows both.
///
/// In the queue of a device, only another machine's ends in such an error for sure. A GPU's may be the last that is heard
/// of a run, for Burn may wait for what the queue then never does: without other machines it is printed.
///
/// What is printed is kept with the run, too.
pub(crate) fn leave_those_of_devices_to_errors(other_machines: bool) {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("<unnamed>");
        let queue = name.starts_with(QUEUES);
        if (queue && other_machines) || clip_train::computes_on_device() {
            log::debug!("{info}");
        } else {
            print(info);
            // Where, and on another line what.
            let told = info.to_string().replace('\n', " ");
            logger::panicked(&format!("thread '{name}' {told}"), name == MAIN);
        }
    }));
}
