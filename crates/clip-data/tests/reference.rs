//! Decoding, resizing and cropping against Pillow and TorchVision; `reference/make_goldens.py` wrote the values.

use clip_data::{
    Adjustment, CropBox, CropDraws, ImageResizer, RandomResizedCrop, Resize, RgbImage, decode,
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

/// `Image.frombytes("RGB", (9, 5), ...).resize((4, 4), ...)` of Pillow 13.0.0.
#[test]
fn both_sides_are_resized_as_pillow_does() {
    const BILINEAR: [u8; 48] = [
        37, 108, 179, 96, 166, 149, 158, 172, 53, 170, 75, 107, 99, 170, 174, 158, 155, 95, 177,
        76, 110, 57, 98, 169, 161, 138, 87, 183, 71, 106, 104, 101, 172, 89, 160, 176, 185, 62,
        109, 88, 97, 168, 93, 163, 169, 151, 151, 77,
    ];
    const BICUBIC: [u8; 48] = [
        27, 98, 186, 89, 171, 157, 160, 189, 36, 181, 64, 105, 92, 177, 187, 162, 169, 86, 194, 63,
        102, 40, 93, 176, 166, 145, 76, 196, 55, 99, 91, 97, 184, 89, 171, 181, 195, 50, 105, 70,
        95, 180, 88, 177, 172, 161, 149, 62,
    ];
    let (width, height) = (9, 5);
    let at = |index: usize| {
        let (pixel, channel) = (index / 3, index % 3);
        (pixel % width * 29 + pixel / width * 53 + channel * 71) as u8
    };
    let image = RgbImage {
        width,
        height,
        pixels: (0..width * height * 3).map(at).collect(),
    };
    for (bilinear, expected) in [(true, BILINEAR), (false, BICUBIC)] {
        let squash = true;
        let ours = ImageResizer::with(4, Resize { squash, bilinear }).square(&image);
        let mut pairs = ours.iter().zip(&expected);
        assert_eq!(ours.len(), expected.len());
        assert!(
            pairs.all(|(ours, theirs)| ours.abs_diff(*theirs) <= RESIZE_MAX),
            "{ours:?}"
        );
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
