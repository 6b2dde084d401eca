//! Decoding, resizing and cropping against Pillow and TorchVision; `reference/make_goldens.py` wrote the values.

use clip_data::{
    Adjustment, CropBox, CropDraws, ImageResizer, RandomResizedCrop, RgbImage, decode,
};
use serde_json::Value;

/// Pillow weights pixels with 22 bits, `fast_image_resize` with 15: a level at most, and rarely.
const RESIZE_MEAN: f64 = 0.1;
const RESIZE_MAX: u8 = 1;

fn goldens() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/goldens.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap().as_bytes();
    hex.chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// The pictures of `make_goldens.py`.
fn picture(case: &Value) -> RgbImage {
    let (width, height) = (number(&case["width"]), number(&case["height"]));
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for c in 0..3 {
                let smooth = (x * 3 + y * 5 + c * 40 + (x * y) / 7) % 511;
                pixels.push(match case["picture"].as_str().unwrap() {
                    "smooth" => smooth.min(510 - smooth) as u8,
                    _ if (x / 3 + y / 2 + c) % 2 == 1 => 255,
                    _ => ((x * 7 + y * 13 + c * 29) % 256) as u8,
                });
            }
        }
    }
    RgbImage {
        width,
        height,
        pixels,
    }
}

/// Mean and greatest difference.
fn difference(ours: &[u8], theirs: &[u8]) -> (f64, u8) {
    assert_eq!(ours.len(), theirs.len());
    let differences = || ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b));
    let mean = differences().map(f64::from).sum::<f64>() / ours.len() as f64;
    (mean, differences().max().unwrap())
}

fn crop_box(values: &Value) -> CropBox {
    CropBox {
        left: number(&values[0]),
        top: number(&values[1]),
        width: number(&values[2]),
        height: number(&values[3]),
    }
}

fn check_resized(ours: &[u8], case: &Value) {
    let (mean, max) = difference(ours, &bytes(&case["pixels"]));
    let what = format!(
        "{} {}x{} to {}: mean {mean:.3}, max {max}",
        case["picture"], case["width"], case["height"], case["size"]
    );
    println!("{what}");
    assert!(mean <= RESIZE_MEAN && max <= RESIZE_MAX, "{what}");
}

#[test]
fn crops_are_resized_as_pillow_does() {
    for case in goldens()["resizes"].as_array().unwrap() {
        let part = crop_box(&case["crop"]);
        let ours = ImageResizer::new(number(&case["size"])).crop(&picture(case), part);
        check_resized(&ours, case);
    }
}

#[test]
fn evaluation_sees_what_torchvision_sees() {
    for case in goldens()["evaluations"].as_array().unwrap() {
        let ours = ImageResizer::new(number(&case["size"])).center_crop(&picture(case));
        check_resized(&ours, case);
    }
}

/// The numbers that TorchVision drew.
struct Recorded<'a> {
    uniforms: std::slice::Iter<'a, Value>,
    offsets: std::slice::Iter<'a, Value>,
}

impl CropDraws for Recorded<'_> {
    fn uniform(&mut self, _low: f32, _high: f32) -> f32 {
        self.uniforms.next().unwrap().as_f64().unwrap() as f32
    }

    fn below(&mut self, bound: usize) -> usize {
        let offset = number(self.offsets.next().unwrap());
        assert!(offset < bound);
        offset
    }
}

#[test]
fn the_same_numbers_draw_torchvisions_crops() {
    for case in goldens()["crops"].as_array().unwrap() {
        let scale = |index: usize| case["scale"][index].as_f64().unwrap() as f32;
        let crop = RandomResizedCrop {
            scale: (scale(0), scale(1)),
            ..RandomResizedCrop::default()
        };
        let mut draws = Recorded {
            uniforms: case["uniforms"].as_array().unwrap().iter(),
            offsets: case["offsets"].as_array().unwrap().iter(),
        };
        let part = crop.draw(number(&case["width"]), number(&case["height"]), &mut draws);
        assert_eq!(part, crop_box(&case["crop"]), "{case}");
        assert!(draws.uniforms.next().is_none() && draws.offsets.next().is_none());
    }
}

#[test]
fn files_decode_to_pillows_colours() {
    for case in goldens()["files"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let image = decode(&bytes(&case["file"])).unwrap();
        assert_eq!((image.width, image.height), (16, 12), "{name}");
        let (mean, max) = difference(&image.pixels, &bytes(&case["pixels"]));
        println!("{name}: mean {mean:.3}, max {max}");
        let bound = match name {
            // Other inverse transforms and colour arithmetic.
            "444.jpg" | "progressive.jpg" | "grey.jpg" | "turned.jpg" | "ycck.jpg"
            | "lossy.webp" => (1.0, 3),
            _ => (0.5, 1),
        };
        assert!(mean <= bound.0 && max <= bound.1, "{name}: {mean} {max}");
    }
}

#[test]
fn colours_change_as_torchvisions_do() {
    let case = serde_json::json!({"picture": "harsh", "width": 12, "height": 9});
    for golden in goldens()["adjustments"].as_array().unwrap() {
        let factor = golden["factor"].as_f64().unwrap() as f32;
        let name = golden["change"].as_str().unwrap();
        let change = match name {
            "brightness" => Adjustment::Brightness(factor),
            "contrast" => Adjustment::Contrast(factor),
            "saturation" => Adjustment::Saturation(factor),
            _ => Adjustment::Hue(factor),
        };
        let mut image = picture(&case);
        change.apply(&mut image.pixels);
        let (mean, max) = difference(&image.pixels, &bytes(&golden["pixels"]));
        assert!(max <= 1, "{name} {factor}: mean {mean}, max {max}");
    }
}
