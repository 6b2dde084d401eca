use super::draw::Draw;
use super::vocabulary::{Colour, Shape};

/// The pairs held out are the same for every seed of a dataset, so that their scores compare.
const SPLIT_SEED: u64 = 2021;

/// Which pairs of colour and shape occur in training.
#[derive(Clone, Debug)]
pub(super) struct PairSplit {
    /// Pairs of training, and of zero-shot classification of what was seen.
    pub(super) seen: Vec<(Colour, Shape)>,
    /// Pairs that no training scene holds.
    pub(super) unseen: Vec<(Colour, Shape)>,
}

impl PairSplit {
    /// Holds out 20 of 100 pairs: two of each colour and of each shape, so that each of them is learned from eight pairs.
    pub(super) fn new() -> Self {
        let mut draw = Draw::new(SPLIT_SEED, 0, 0);
        let colours = draw.permutation(Colour::ALL.len());
        let shapes = draw.permutation(Shape::ALL.len());
        let mut split = Self {
            seen: Vec::new(),
            unseen: Vec::new(),
        };
        for (colour, &row) in Colour::ALL.into_iter().zip(&colours) {
            for (shape, &column) in Shape::ALL.into_iter().zip(&shapes) {
                // Two diagonals of the table in random order.
                let unseen = matches!((row + column) % Shape::ALL.len(), 0 | 5);
                let half = if unseen {
                    &mut split.unseen
                } else {
                    &mut split.seen
                };
                half.push((colour, shape));
            }
        }
        split
    }
}

/// The class number of a pair.
pub(super) fn class_index(colour: Colour, shape: Shape) -> usize {
    colour as usize * Shape::ALL.len() + shape as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_colour_and_shape_is_mostly_seen() {
        let split = PairSplit::new();
        assert_eq!((split.seen.len(), split.unseen.len()), (80, 20));
        for colour in Colour::ALL {
            let unseen = split.unseen.iter().filter(|pair| pair.0 == colour).count();
            assert_eq!(unseen, 2, "{colour:?}");
        }
        for shape in Shape::ALL {
            let unseen = split.unseen.iter().filter(|pair| pair.1 == shape).count();
            assert_eq!(unseen, 2, "{shape:?}");
        }
        assert!(split.seen.iter().all(|pair| !split.unseen.contains(pair)));
    }

    #[test]
    fn class_numbers_are_lines_of_the_class_file() {
        let names: Vec<&str> = super::super::dataset::CLASSES.lines().collect();
        assert_eq!(names.len(), 100);
        for colour in Colour::ALL {
            for shape in Shape::ALL {
                let name = format!("{} {}", colour.names()[0], shape.names()[0]);
                assert_eq!(names[class_index(colour, shape)], name);
            }
        }
    }
}
