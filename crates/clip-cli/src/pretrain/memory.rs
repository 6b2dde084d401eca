use clip_metrics::{gibibytes, human_count};
use clip_model::{ClipConfig, Precision};
use clip_train::{KeptByBlocks, StepMemory, config::RunConfig};

use super::{devices::Devices, free_memory::free_bytes, teacher::RunTeacher};

/// Sets the run's chunk, where it isn't set, by what memory is predicted to hold, and says so.
pub(super) fn choose_chunk(
    config: &mut RunConfig,
    model: &ClipConfig,
    teacher: Option<&RunTeacher>,
    devices: &Devices,
) {
    if config.chunk > 0 {
        return;
    }
    config.chunk = config.batch;
    let shared = devices.are_this_cpu();
    // What a GPU or another machine has free isn't known to Burn.
    let limit = match config.memory {
        Some(limit) => Some(limit.bytes),
        None => free_bytes().filter(|_| shared),
    };
    // A block with layer scales is composed of Burn's operations anywhere.
    let fused = config.precision != Precision::F16 && model.vision_cfg.ls_init_value.is_none();
    let kept = if shared && fused {
        KeptByBlocks::FUSED
    } else {
        KeptByBlocks::COMPOSED
    };
    let memory = StepMemory::predict(config, model, kept);
    let beside = teacher.map_or(0, |of_run| of_run.parameters);
    let memory = memory.map(|memory| memory.beside(beside));
    let (Some(limit), Some(memory)) = (limit, memory) else {
        return;
    };
    // Processors share the machine's memory; other devices have their own.
    let together = if shared {
        config.threads
    } else {
        config.threads.div_ceil(devices.count())
    };
    let plan = memory.plan(config.batch, config.threads, together, limit);
    config.chunk = plan.chunk;
    let said = format!(
        "batch {} in chunks of {}: predicted {} of {} {}",
        human_count(config.batch as u64),
        human_count(plan.chunk as u64),
        gibibytes(plan.predicted),
        gibibytes(limit),
        if config.memory.is_some() {
            "allowed"
        } else {
            "free"
        },
    );
    if plan.fits {
        log::info!("{said}");
    } else {
        log::warn!("{said}: it may not fit; take a smaller batch, model or number of threads");
    }
}
