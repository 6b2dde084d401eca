use std::collections::BTreeMap;

/// Bits of 64 in which the hashes of near-duplicates may differ.
///
/// Of Flickr8k's first 1,000 training photographs, each stays within 4 of itself at three quarters of its size in JPEG
/// of quality 60, and 99.5% within 2; of their 499,500 pairs none is within 10. Drawings are more alike: of as many
/// emoji 93% stay within 4, and 68 pairs are.
pub(super) const NEAR: u32 = 4;

/// Parts that a hash is cut into. Of `NEAR + 1` parts at least one is the same in hashes that differ in `NEAR` bits,
/// so only hashes that share one are compared.
const BANDS: u32 = NEAR + 1;

/// What is kept of an image, which is nothing of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Print {
    /// The first half of its SHA-256.
    pub(super) sha: u128,
    /// See [`perceptual_hash`](super::perceptual::perceptual_hash).
    pub(super) perceptual: Option<u64>,
}

/// Images that stand before as well: exact ones and near ones, by number, each with the first of its kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Duplicates {
    pub(super) exact: Vec<(usize, usize)>,
    pub(super) near: Vec<(usize, usize)>,
}

impl Duplicates {
    pub(super) fn find(prints: &[Print]) -> Self {
        let mut order: Vec<usize> = (0..prints.len()).collect();
        order.sort_unstable_by_key(|&image| (prints[image].sha, image));
        let mut exact = Vec::new();
        // By perceptual hash, the first image of each; images with the same bytes count once.
        let mut firsts: BTreeMap<u64, usize> = BTreeMap::new();
        let mut near = Vec::new();
        let mut distinct = Vec::new();
        for same in order.chunk_by(|&a, &b| prints[a].sha == prints[b].sha) {
            exact.extend(same[1..].iter().map(|&image| (image, same[0])));
            distinct.push(same[0]);
        }
        distinct.sort_unstable();
        for image in distinct {
            let Some(hash) = prints[image].perceptual else {
                continue;
            };
            match firsts.get(&hash) {
                Some(&first) => near.push((image, first)),
                None => {
                    firsts.insert(hash, image);
                }
            }
        }
        let hashes: Vec<(u64, usize)> = firsts.into_iter().collect();
        let mut clusters = Clusters::new(prints.len());
        for (image, first) in near {
            clusters.join(image, first);
        }
        join_near(&hashes, &mut clusters);
        let mut near: Vec<(usize, usize)> = (0..prints.len())
            .map(|image| (image, clusters.first(image)))
            .filter(|(image, first)| image != first)
            .collect();
        near.sort_unstable();
        exact.sort_unstable();
        Self { exact, near }
    }
}

/// Joins all pairs of hashes that differ in at most [`NEAR`] bits.
fn join_near(hashes: &[(u64, usize)], clusters: &mut Clusters) {
    for band in 0..BANDS {
        let [start, end] = [band, band + 1].map(|band| band * u64::BITS / BANDS);
        let part = |hash: u64| (hash >> start) & ((1 << (end - start)) - 1);
        let mut sorted = hashes.to_vec();
        sorted.sort_unstable_by_key(|&(hash, image)| (part(hash), image));
        for run in sorted.chunk_by(|a, b| part(a.0) == part(b.0)) {
            for (at, (hash, image)) in run.iter().enumerate() {
                for (other, first) in &run[..at] {
                    if (hash ^ other).count_ones() <= NEAR {
                        clusters.join(*image, *first);
                    }
                }
            }
        }
    }
}

/// Disjoint sets, each known by its smallest member.
struct Clusters {
    parents: Vec<usize>,
}

impl Clusters {
    fn new(members: usize) -> Self {
        Self {
            parents: (0..members).collect(),
        }
    }

    fn first(&mut self, mut member: usize) -> usize {
        while self.parents[member] != member {
            self.parents[member] = self.parents[self.parents[member]];
            member = self.parents[member];
        }
        member
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.first(a), self.first(b));
        self.parents[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(sha: u128, perceptual: u64) -> Print {
        Print {
            sha,
            perceptual: Some(perceptual),
        }
    }

    #[test]
    fn a_duplicate_is_exact_or_near_and_not_both() {
        let flat = |sha| Print {
            sha,
            perceptual: None,
        };
        let prints = [
            print(9, 0xff00),
            print(3, 0x00ff_0000_0000_0000),
            print(9, 0xff00),
            print(7, 0xff00),
            print(5, 0xff00 ^ (1 << 63) ^ (1 << 31) ^ 0b101),
            print(4, 0xff00 ^ (1 << 63) ^ (1 << 31) ^ 0b111),
            flat(1),
            flat(2),
            flat(1),
        ];
        let found = Duplicates::find(&prints);
        assert_eq!(found.exact, [(2, 0), (8, 6)]);
        // Image 5 differs from image 0 in five bits, and in one from image 4.
        assert_eq!(found.near, [(3, 0), (4, 0), (5, 0)]);
        assert_eq!(Duplicates::find(&[]), Duplicates::default());
    }

    #[test]
    fn the_bands_miss_no_pair() {
        for a in 0..64 {
            for b in 0..a {
                for c in [0, b / 2, 63] {
                    let other = 1_u64 << a | 1 << b | 1 << c | 1 << 40;
                    let found = Duplicates::find(&[print(0, 0), print(1, other)]);
                    assert_eq!(found.near, [(1, 0)], "{a} {b} {c}");
                }
            }
        }
        let far = Duplicates::find(&[print(0, 0), print(1, 0b11111)]);
        assert!(far.near.is_empty());
    }
}
