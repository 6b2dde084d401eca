/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Heart,
    Cross,
    Ring,
    Diamond,
    Crescent,
    Arrow,
}

impl Shape {
    /// Every shape, in the order of classes.
    pub(super) const ALL: [Self; 10] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Star,
        Self::Heart,
        Self::Cross,
        Self::Ring,
        Self::Diamond,
        Self::Crescent,
        Self::Arrow,
    ];

    /// Words for it, the class name first.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            Self::Circle => &["circle", "disc"],
            Self::Square => &["square"],
            Self::Triangle => &["triangle"],
            Self::Star => &["star"],
            Self::Heart => &["heart"],
            Self::Cross => &["cross", "plus sign"],
            Self::Ring => &["ring", "hoop"],
            Self::Diamond => &["diamond", "rhombus"],
            Self::Crescent => &["crescent", "crescent moon"],
            Self::Arrow => &["arrow"],
        }
    }

    /// How far it is turned either way, in degrees: to know shapes in every direction takes a small transformer longer
    /// than the default run lasts.
    pub(super) const MAX_TURN: f32 = 8.0;
}

/// The colour of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Colour {
    Red,
    Orange,
    Yellow,
    Green,
    Cyan,
    Blue,
    Purple,
    Pink,
    Black,
    Brown,
}

impl Colour {
    /// Every colour, in the order of classes.
    pub(super) const ALL: [Self; 10] = [
        Self::Red,
        Self::Orange,
        Self::Yellow,
        Self::Green,
        Self::Cyan,
        Self::Blue,
        Self::Purple,
        Self::Pink,
        Self::Black,
        Self::Brown,
    ];

    /// Words for it, the class name first.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            Self::Red => &["red"],
            Self::Orange => &["orange"],
            Self::Yellow => &["yellow"],
            Self::Green => &["green"],
            Self::Cyan => &["cyan", "turquoise"],
            Self::Blue => &["blue"],
            Self::Purple => &["purple", "violet"],
            Self::Pink => &["pink"],
            Self::Black => &["black"],
            Self::Brown => &["brown"],
        }
    }
}

/// How large an object is, within its scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Size {
    Small,
    Medium,
    Large,
}

impl Size {
    pub(super) const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    /// Words for it.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            Self::Small => &["small", "little", "tiny"],
            Self::Medium => &["medium"],
            Self::Large => &["large", "big"],
        }
    }
}

/// What is behind the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pattern {
    Plain,
    Gradient,
    Striped,
    Checkered,
    Speckled,
}

impl Pattern {
    pub(super) const ALL: [Self; 5] = [
        Self::Plain,
        Self::Gradient,
        Self::Striped,
        Self::Checkered,
        Self::Speckled,
    ];

    /// Words for it, before `background`.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &["plain", "solid"],
            Self::Gradient => &["gradient", "shaded"],
            Self::Striped => &["striped"],
            Self::Checkered => &["checkered"],
            Self::Speckled => &["speckled", "noisy"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_things_share_a_word() {
        let mut words: Vec<&str> = Shape::ALL
            .iter()
            .flat_map(|shape| shape.names())
            .copied()
            .collect();
        words.extend(Colour::ALL.iter().flat_map(|colour| colour.names()));
        words.extend(Size::ALL.iter().flat_map(|size| size.names()));
        words.extend(Pattern::ALL.iter().flat_map(|pattern| pattern.names()));
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count);
    }
}
