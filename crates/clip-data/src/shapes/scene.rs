use super::draw::Draw;
use super::palette::{Rgb, Tone, backdrop, shade};
use super::vocabulary::{Colour, Pattern, Shape, Size};

/// One thing in a scene. Lengths are shares of the image's side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object {
    pub(super) colour: Colour,
    pub(super) shape: Shape,
    pub(super) size: Size,
    /// Centre, from the top left.
    pub(super) centre: [f32; 2],
    pub(super) radius: f32,
    /// In radians.
    pub(super) turn: f32,
    pub(super) rgb: Rgb,
}

/// What is behind the objects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Background {
    pub(super) pattern: Pattern,
    pub(super) tone: Tone,
    pub(super) colours: [Rgb; 2],
    /// Direction of stripes and gradients, in radians.
    pub(super) angle: f32,
    /// Width of a stripe or square, as a share of the image's side.
    pub(super) period: f32,
    /// What the speckles are drawn from.
    pub(super) noise: u64,
}

/// Where one object is, seen from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Left,
    Right,
    Above,
    Below,
}

/// A column or row of the image: before, in, or after its middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Third {
    First,
    Middle,
    Last,
}

/// One to three objects on a background.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) objects: Vec<Object>,
    pub(super) background: Background,
    /// Column and row of a single object.
    pub(super) place: Option<(Third, Third)>,
}

/// Objects a scene of one, two and three holds at most, by share of scenes.
pub(super) type Counts = [f32; 2];

/// Free space between objects, as a share of the image's side.
const GAP: f32 = 0.025;
/// Corners reach a little beyond the radius.
const REACH: f32 = 1.08;
/// Arrangements tried before objects stand in a row.
const ATTEMPTS: usize = 200;
/// One object is beside another only if it is this many times farther along that axis than across it.
const CLEAR: f32 = 1.8;

impl Scene {
    /// A scene of objects with the given pairs of colour and shape.
    pub(super) fn new(pairs: &[(Colour, Shape)], draw: &mut Draw) -> Self {
        let (mut objects, place) = match pairs {
            [pair] => {
                let (object, place) = single(*pair, draw);
                (vec![object], Some(place))
            }
            _ => (several(pairs, draw), None),
        };
        for object in &mut objects {
            object.rgb = shade(object.colour, draw);
        }
        let shades: Vec<Rgb> = objects.iter().map(|object| object.rgb).collect();
        let (tone, first, second) = backdrop(&shades, draw);
        let background = Background {
            pattern: draw.pick(&Pattern::ALL),
            tone,
            colours: [first, second],
            angle: draw.between(0.0, std::f32::consts::PI),
            period: draw.between(0.09, 0.17),
            noise: draw.below(1 << 31) as u64,
        };
        Self {
            objects,
            background,
            place,
        }
    }

    /// Where `first` is, seen from `second`, if that is clear.
    pub(super) fn relation(&self, first: usize, second: usize) -> Option<Relation> {
        let [a, b] = [first, second].map(|at| self.objects[at].centre);
        let (dx, dy) = (a[0] - b[0], a[1] - b[1]);
        if dx.abs() >= CLEAR * dy.abs() {
            Some(if dx < 0.0 {
                Relation::Left
            } else {
                Relation::Right
            })
        } else if dy.abs() >= CLEAR * dx.abs() {
            Some(if dy < 0.0 {
                Relation::Above
            } else {
                Relation::Below
            })
        } else {
            None
        }
    }

    /// Whether sizes differ, so that naming one of them says something.
    pub(super) fn sizes_differ(&self) -> bool {
        self.objects
            .iter()
            .any(|object| object.size != self.objects[0].size)
    }
}

/// Distinct pairs for a scene of one to three objects.
pub(super) fn pick_pairs(
    pool: &[(Colour, Shape)],
    [one, two]: Counts,
    draw: &mut Draw,
) -> Vec<(Colour, Shape)> {
    let share = draw.between(0.0, 1.0);
    let count = if share < one {
        1
    } else if share < one + two {
        2
    } else {
        3
    };
    let mut pairs: Vec<(Colour, Shape)> = Vec::with_capacity(count);
    while pairs.len() < count {
        let pair = draw.pick(pool);
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    pairs
}

fn object(pair: (Colour, Shape), count: usize, draw: &mut Draw) -> Object {
    let (colour, shape) = pair;
    let size = draw.pick(&Size::ALL);
    // Radii of small, medium and large by number of objects: three large ones still fit side by side.
    let radii = match count {
        1 => [0.24, 0.31, 0.39],
        2 => [0.15, 0.19, 0.24],
        _ => [0.13, 0.16, 0.19],
    };
    let turn = Shape::MAX_TURN.to_radians();
    Object {
        colour,
        shape,
        size,
        centre: [0.5; 2],
        radius: radii[size as usize] * draw.between(0.97, 1.03),
        turn: draw.between(-turn, turn),
        rgb: [0.0; 3],
    }
}

/// One object in one of nine places, give or take two pixels of a small image.
fn single(pair: (Colour, Shape), draw: &mut Draw) -> (Object, (Third, Third)) {
    let mut object = object(pair, 1, draw);
    let thirds = [Third::First, Third::Middle, Third::Last];
    let place = (draw.pick(&thirds), draw.pick(&thirds));
    let edge = (object.radius + 0.02).max(0.28);
    let mut along = |third: Third| match third {
        Third::First => draw.between(edge, edge + 0.03),
        Third::Middle => draw.between(0.485, 0.515),
        Third::Last => 1.0 - draw.between(edge, edge + 0.03),
    };
    object.centre = [along(place.0), along(place.1)];
    (object, place)
}

/// Two or three objects that don't touch, two at least clearly beside or above one another.
fn several(pairs: &[(Colour, Shape)], draw: &mut Draw) -> Vec<Object> {
    let mut objects: Vec<Object> = pairs
        .iter()
        .map(|&pair| object(pair, pairs.len(), draw))
        .collect();
    for _ in 0..ATTEMPTS {
        for object in &mut objects {
            let edge = object.radius + 0.02;
            object.centre = [
                draw.between(edge, 1.0 - edge),
                draw.between(edge, 1.0 - edge),
            ];
        }
        if apart(&objects) && some_clear(&objects) {
            return objects;
        }
    }
    // Rare: a row, as the radii allow for.
    let count = objects.len() as f32;
    for (at, object) in objects.iter_mut().enumerate() {
        object.radius = object
            .radius
            .min(0.99 * (1.0 / count - GAP) / (2.0 * REACH));
        object.centre = [(at as f32 + 0.5) / count, 0.5];
    }
    objects
}

fn separation(a: &Object, b: &Object) -> [f32; 2] {
    [
        (a.centre[0] - b.centre[0]).abs(),
        (a.centre[1] - b.centre[1]).abs(),
    ]
}

fn apart(objects: &[Object]) -> bool {
    objects.iter().enumerate().all(|(at, a)| {
        objects[at + 1..].iter().all(|b| {
            let [dx, dy] = separation(a, b);
            (dx * dx + dy * dy).sqrt() > REACH * (a.radius + b.radius) + GAP
        })
    })
}

fn some_clear(objects: &[Object]) -> bool {
    let [dx, dy] = separation(&objects[0], &objects[1]);
    dx.max(dy) >= CLEAR * dx.min(dy)
}

#[cfg(test)]
mod tests {
    use super::super::split::PairSplit;
    use super::*;

    #[test]
    fn objects_lie_within_the_image_and_apart() {
        let pairs = PairSplit::new().seen;
        for index in 0..2000 {
            let mut draw = Draw::new(3, 0, index);
            let chosen = pick_pairs(&pairs, [0.3, 0.4], &mut draw);
            let scene = Scene::new(&chosen, &mut draw);
            assert!(apart(&scene.objects), "{:?}", scene.objects);
            for object in &scene.objects {
                for axis in object.centre {
                    assert!(
                        axis - object.radius >= 0.0 && axis + object.radius <= 1.0,
                        "{object:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn relations_say_what_is_seen() {
        let mut draw = Draw::new(4, 0, 0);
        let pairs = [(Colour::Red, Shape::Circle), (Colour::Blue, Shape::Star)];
        let mut scene = Scene::new(&pairs, &mut draw);
        scene.objects[0].centre = [0.2, 0.5];
        scene.objects[1].centre = [0.8, 0.6];
        assert_eq!(scene.relation(0, 1), Some(Relation::Left));
        assert_eq!(scene.relation(1, 0), Some(Relation::Right));
        scene.objects[1].centre = [0.25, 0.9];
        assert_eq!(scene.relation(0, 1), Some(Relation::Above));
        scene.objects[1].centre = [0.6, 0.9];
        assert_eq!(scene.relation(0, 1), None);
    }
}
