use memchr::{memchr, memmem};

/// Marks a segment, beside the next byte (ITU-T T.81, table B.1).
const MARKER: u8 = 0xff;
const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: u8 = 0xd9;

/// Whether the picture ends within the file, of which a decoder would fill what is cut off with grey.
///
/// Phones put videos behind a picture, and thumbnails, each with an end of its own, in the segments before its first scan:
/// these are passed over by their lengths. After that an end marker is the picture's: none occurs within a scan, or in what
/// stands between the scans of a progressive one.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    let scans = first_scan(bytes).and_then(|scan| bytes.get(scan..));
    scans.is_some_and(|scans| memmem::find(scans, &[MARKER, END_OF_IMAGE]).is_some())
}

/// Where the data of the first scan begin.
fn first_scan(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        // What stands between segments is passed over, as decoders do.
        at += memchr(MARKER, bytes.get(at..)?)?;
        match *bytes.get(at + 1)? {
            // Markers may be filled up with any number of these.
            MARKER => at += 1,
            // These, such as the start of the image, have no length.
            0x00 | 0x01 | 0xd0..=END_OF_IMAGE => at += 2,
            kind => {
                let length = [*bytes.get(at + 2)?, *bytes.get(at + 3)?];
                at += 2 + usize::from(u16::from_be_bytes(length));
                if kind == START_OF_SCAN {
                    return Some(at);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment with its length.
    fn segment(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16 + 2).to_be_bytes();
        [&[MARKER, kind][..], &length, body].concat()
    }

    /// A progressive picture of two scans, with a thumbnail, a stuffed byte, a restart and a fill byte.
    fn picture() -> Vec<u8> {
        let thumbnail = [
            &[0xff, 0xd8][..],
            &segment(START_OF_SCAN, &[1]),
            &[7, 0xff, 0xd9],
        ];
        [
            &[0xff, 0xd8][..],
            &segment(0xe1, &thumbnail.concat()),
            &[MARKER],
            &segment(START_OF_SCAN, &[1, 2, 3]),
            &[9, 0xff, 0x00, 9, 0xff, 0xd0, 9],
            &segment(0xc4, &[0, 1, 2]),
            &segment(START_OF_SCAN, &[1, 2, 3]),
            &[9, 9, 0xff, 0xd9],
        ]
        .concat()
    }

    #[test]
    fn a_picture_is_whole_from_its_own_end_on() {
        let bytes = picture();
        for cut in 0..bytes.len() {
            assert!(!is_whole(&bytes[..cut]), "cut at {cut}");
        }
        assert!(is_whole(&bytes));
    }

    #[test]
    fn what_follows_the_end_does_not_count() {
        for tail in [&[0; 9][..], &[0xff, START_OF_SCAN, 0, 4], &[0xff]] {
            assert!(is_whole(&[&picture()[..], tail].concat()), "{tail:?}");
        }
    }
}
