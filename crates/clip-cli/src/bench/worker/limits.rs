//! What the machine can do at most, whoever asks.

use std::{fs::File, hint::black_box, io::Write, path::PathBuf, thread, time::Instant};

use anyhow::{Context, Result};
use burn::tensor::{Distribution, Tensor};

use super::{Place, Task, noise};
use crate::device::Backend;

/// Sides of square matrices: small enough for two seconds, large enough for every core or multiprocessor.
const PROCESSOR_SIZES: [usize; 3] = [512, 1024, 2048];
const GPU_SIZES: [usize; 3] = [2048, 4096, 8192];
/// Far beyond every cache.
const BYTES: usize = 256 << 20;

/// Products of two square matrices in the models' precision, of the size that is fastest here.
pub(super) struct MatMul {
    place: Place,
    size: usize,
    factors: [Tensor<2>; 2],
}

impl MatMul {
    pub(super) fn new(place: Place) -> Result<Self> {
        let sizes = match place.started.name.backend {
            Backend::Cpu => PROCESSOR_SIZES,
            _ => GPU_SIZES,
        };
        let mut best: Option<(f64, usize)> = None;
        for size in sizes {
            let factors = factors(size, &place);
            // The first also warms up.
            for _ in 0..3 {
                let start = Instant::now();
                multiply(&factors, &place)?;
                let rate = (size as f64).powi(3) / start.elapsed().as_secs_f64();
                if best.is_none_or(|(most, _)| rate > most) {
                    best = Some((rate, size));
                }
            }
        }
        let (_, size) = best.context("no size was tried")?;
        Ok(Self {
            factors: factors(size, &place),
            size,
            place,
        })
    }
}

fn factors(size: usize, place: &Place) -> [Tensor<2>; 2] {
    let device = &place.started.device;
    let dtype = place.setup.precision.dtype();
    let uniform = Distribution::Uniform(-1.0, 1.0);
    let factor = || Tensor::<2>::random([size, size], uniform, device);
    [(); 2].map(|()| factor().cast(dtype))
}

fn multiply([a, b]: &[Tensor<2>; 2], place: &Place) -> Result<()> {
    let product = a.clone().matmul(b.clone());
    place.sync()?;
    drop(black_box(product));
    Ok(())
}

impl Task for MatMul {
    fn run(&mut self) -> Result<u64> {
        multiply(&self.factors, &self.place)?;
        Ok(2 * (self.size as u64).pow(3))
    }
}

/// Copies a block of memory: on a processor by all threads, on a GPU by an addition.
pub(super) struct Copy {
    place: Place,
    from: Vec<u8>,
    to: Vec<u8>,
    device: Option<Tensor<1>>,
}

impl Copy {
    pub(super) fn new(place: Place) -> Self {
        let on_gpu = place.started.name.backend != Backend::Cpu;
        let host = if on_gpu { 0 } else { BYTES };
        Self {
            from: noise(host),
            to: vec![0; host],
            device: on_gpu.then(|| Tensor::ones([BYTES / 4], &place.started.device)),
            place,
        }
    }
}

impl Task for Copy {
    fn run(&mut self) -> Result<u64> {
        if let Some(tensor) = &self.device {
            let sum = tensor.clone().add_scalar(1.0);
            self.place.sync()?;
            drop(black_box(sum));
        } else {
            let part = BYTES.div_ceil(self.place.setup.threads);
            thread::scope(|scope| {
                for (to, from) in self.to.chunks_mut(part).zip(self.from.chunks(part)) {
                    scope.spawn(|| black_box(to).copy_from_slice(black_box(from)));
                }
            });
        }
        Ok(2 * BYTES as u64)
    }
}

/// Writes a file and waits until it is on the disk.
pub(super) struct WriteFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl WriteFile {
    pub(super) fn new(place: &Place) -> Self {
        Self {
            path: place.file("written"),
            bytes: noise(BYTES),
        }
    }
}

impl Task for WriteFile {
    fn run(&mut self) -> Result<u64> {
        let mut file = File::create(&self.path)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        file.write_all(&self.bytes)?;
        file.sync_all()?;
        Ok(BYTES as u64)
    }
}
