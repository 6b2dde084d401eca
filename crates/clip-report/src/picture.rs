use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};

/// An image as rows of RGB bytes, from the top.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `width * height * 3` bytes.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// The image as a `data:` address, `None` if its bytes don't fit its size.
    pub(crate) fn data_url(&self) -> Option<String> {
        let pixels = u64::from(self.width) * u64::from(self.height);
        if pixels == 0 || self.rgb.len() as u64 != 3 * pixels {
            return None;
        }
        let mut png = Vec::new();
        PngEncoder::new(&mut png)
            .write_image(&self.rgb, self.width, self.height, ExtendedColorType::Rgb8)
            .ok()?;
        Some(format!("data:image/png;base64,{}", base64(&png)))
    }
}

/// Base64 with padding, RFC 4648 section 4.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |place: usize| u32::from(chunk.get(place).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            if place <= chunk.len() {
                let sextet = group >> (18 - 6 * place) & 63;
                text.push(char::from(ALPHABET[sextet as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfcs_examples() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in cases {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn bytes_that_do_not_fit_the_size_are_no_picture() {
        let whole = Picture {
            width: 2,
            height: 1,
            rgb: vec![0; 6],
        };
        assert!(
            whole
                .data_url()
                .unwrap()
                .starts_with("data:image/png;base64,iVBOR")
        );
        assert_eq!(Picture { height: 2, ..whole }.data_url(), None);
        assert_eq!(Picture::default().data_url(), None);
    }
}
