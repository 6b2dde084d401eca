//! What the machine can do at most, whoever asks.

use std::{fs::File, hint::black_box, io::Write, path::PathBuf, thread, time::Instant};

use anyhow::{Context, Result};
use burn::tensor::{Distribution, Tensor};
#[cfg(feature = "cpu")]
use clip_model::Precision;

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
    product: Product,
}

/// How a training step multiplies.
enum Product {
    /// By Burn, whose operations know how to use the device.
    OfTensors(Box<[Tensor<2>; 2]>),
    /// On a processor, each thread its own.
    #[cfg(feature = "cpu")]
    OfThreads(Vec<clip_kernels::SquareProduct>),
}

impl MatMul {
    pub(super) fn new(place: Place) -> Result<Self> {
        let sizes = match place.started.name.backend {
            Backend::Cpu => PROCESSOR_SIZES,
            _ => GPU_SIZES,
        };
        let mut best: Option<(f64, usize)> = None;
        for size in sizes {
            let mut product = Product::new(size, &place);
            // The first also warms up.
            for _ in 0..3 {
                let start = Instant::now();
                let flop = product.run(size, &place)?;
                let rate = flop as f64 / start.elapsed().as_secs_f64();
                if best.is_none_or(|(most, _)| rate > most) {
                    best = Some((rate, size));
                }
            }
        }
        let (_, size) = best.context("no size was tried")?;
        Ok(Self {
            product: Product::new(size, &place),
            size,
            place,
        })
    }
}

impl Product {
    fn new(size: usize, place: &Place) -> Self {
        let precision = place.setup.precision;
        #[cfg(feature = "cpu")]
        if place.started.name.backend == Backend::Cpu && precision != Precision::F16 {
            let product = || clip_kernels::SquareProduct::new(size, precision == Precision::Bf16);
            return Self::OfThreads((0..place.threads()).map(|_| product()).collect());
        }
        let device = &place.started.device;
        let uniform = Distribution::Uniform(-1.0, 1.0);
        let factor = || Tensor::<2>::random([size, size], uniform, device);
        Self::OfTensors(Box::new([(); 2].map(|()| factor().cast(precision.dtype()))))
    }

    /// Floating-point operations.
    fn run(&mut self, size: usize, place: &Place) -> Result<u64> {
        let one = 2 * (size as u64).pow(3);
        match self {
            Self::OfTensors(factors) => {
                let [a, b] = &**factors;
                let product = a.clone().matmul(b.clone());
                place.sync()?;
                drop(black_box(product));
                Ok(one)
            }
            #[cfg(feature = "cpu")]
            Self::OfThreads(products) => {
                thread::scope(|scope| {
                    for product in products.iter_mut() {
                        scope.spawn(|| product.run());
                    }
                });
                Ok(one * products.len() as u64)
            }
        }
    }
}

impl Task for MatMul {
    fn run(&mut self) -> Result<u64> {
        self.product.run(self.size, &self.place)
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
