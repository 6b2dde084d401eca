use super::draw::Draw;
use super::scene::{Object, Relation, Scene, Third};

/// Captions drawn before a scene makes do with fewer different ones than were asked for.
const ATTEMPTS: usize = 40;

/// Bytes of a caption of three objects that leave room for a background.
const SHORT: usize = 50;

/// What a caption may begin with, before what it shows.
const LEADS: [&str; 8] = [
    "a picture of ",
    "an image of ",
    "a drawing of ",
    "there is ",
    "this picture shows ",
    "the image shows ",
    "here we see ",
    "a scene with ",
];

/// `count` different captions of a scene, each true of it.
pub(super) fn captions(scene: &Scene, count: usize, draw: &mut Draw) -> Vec<String> {
    let mut captions = Vec::with_capacity(count);
    for _ in 0..count * ATTEMPTS {
        let caption = caption(scene, draw);
        if !captions.contains(&caption) {
            captions.push(caption);
        }
        if captions.len() == count {
            break;
        }
    }
    captions
}

fn caption(scene: &Scene, draw: &mut Draw) -> String {
    let subject = match scene.objects.as_slice() {
        [only] => single(only, scene, draw),
        _ => several(scene, draw),
    };
    // With all that could be said at once, a caption would be twice as long as most, and a batch is as long as its
    // longest.
    let room = scene.objects.len() < 3;
    let mut caption = String::new();
    if room && draw.chance(0.35) {
        caption.push_str(draw.pick(&LEADS));
    }
    // One in eight names the background: were it more, telling backgrounds apart would be learned long before shapes.
    if (room || subject.len() < SHORT) && draw.chance(0.125) {
        let background = background(scene, draw);
        match draw.below(4) {
            0 => caption = format!("{caption}{} with {subject}", with_article(&background)),
            1 => caption = format!("{caption}{subject} against {}", with_article(&background)),
            _ => caption = format!("{caption}{subject} on {}", with_article(&background)),
        }
    } else {
        caption.push_str(&subject);
    }
    if draw.chance(0.25) {
        caption.push('.');
    }
    caption
}

fn single(object: &Object, scene: &Scene, draw: &mut Draw) -> String {
    // A few captions name one attribute alone, from which it is learned apart from the others.
    let mut subject = match draw.below(16) {
        0 => format!("something {}", word(object.colour.names(), draw)),
        1 => format!("one {} shape", word(object.colour.names(), draw)),
        2 => format!("one {}", word(object.shape.names(), draw)),
        _ => mention(object, draw.chance(0.2), draw),
    };
    if let Some(place) = scene.place
        && draw.chance(0.15)
    {
        subject.push(' ');
        subject.push_str(draw.pick(place_names(place)));
    }
    subject
}

fn several(scene: &Scene, draw: &mut Draw) -> String {
    let order = draw.permutation(scene.objects.len());
    let sizes = order.len() == 2 && scene.sizes_differ() && draw.chance(0.4);
    let mentions: Vec<String> = order
        .iter()
        .map(|&at| mention(&scene.objects[at], sizes, draw))
        .collect();
    if draw.chance(0.1) {
        let others = if mentions.len() == 2 {
            "another shape"
        } else {
            "two other shapes"
        };
        return format!("{} and {others}", mentions[0]);
    }
    let relation = scene.relation(order[0], order[1]);
    if let Some(relation) = relation
        && draw.chance(0.55)
    {
        let relation = draw.pick(relation_names(relation));
        let rest = mentions.get(2).map(|third| format!(", and {third}"));
        let rest = rest.unwrap_or_default();
        return format!("{} {relation} {}{rest}", mentions[0], mentions[1]);
    }
    match mentions.as_slice() {
        [first, second, third] => format!("{first}, {second} and {third}"),
        _ => mentions.join(" and "),
    }
}

/// An object as a caption names it: `a small red circle`.
fn mention(object: &Object, size: bool, draw: &mut Draw) -> String {
    let colour = word(object.colour.names(), draw);
    let shape = word(object.shape.names(), draw);
    let noun = if size {
        format!("{} {colour} {shape}", word(object.size.names(), draw))
    } else {
        format!("{colour} {shape}")
    };
    match draw.below(8) {
        0 => format!("one {noun}"),
        1 => format!("the {noun}"),
        _ => with_article(&noun),
    }
}

/// Mostly the first name, which is the class's.
fn word(names: &'static [&'static str], draw: &mut Draw) -> &'static str {
    if draw.chance(0.25) {
        draw.pick(names)
    } else {
        names[0]
    }
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {noun}")
}

fn background(scene: &Scene, draw: &mut Draw) -> String {
    let pattern = word(scene.background.pattern.names(), draw);
    match scene.background.tone.name() {
        Some(tone) if draw.chance(0.3) => format!("{tone} background"),
        Some(tone) if draw.chance(0.4) => format!("{tone} {pattern} background"),
        _ => format!("{pattern} background"),
    }
}

fn relation_names(relation: Relation) -> &'static [&'static str] {
    match relation {
        Relation::Left => &["to the left of", "left of"],
        Relation::Right => &["to the right of", "right of"],
        Relation::Above => &["above"],
        Relation::Below => &["below", "under"],
    }
}

fn place_names((column, row): (Third, Third)) -> &'static [&'static str] {
    use Third::{First, Last, Middle};
    match (column, row) {
        (Middle, Middle) => &["in the middle", "in the center"],
        (First, Middle) => &["on the left", "on the left side"],
        (Last, Middle) => &["on the right", "on the right side"],
        (Middle, First) => &["at the top"],
        (Middle, Last) => &["at the bottom"],
        (First, First) => &["in the top left corner", "at the top left"],
        (Last, First) => &["in the top right corner", "at the top right"],
        (First, Last) => &["in the bottom left corner", "at the bottom left"],
        (Last, Last) => &["in the bottom right corner", "at the bottom right"],
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::super::scene::pick_pairs;
    use super::super::split::PairSplit;
    use super::super::vocabulary::{Colour, Pattern, Shape, Size};
    use super::*;

    /// One of several words, the longest first, so that `crescent moon` isn't a `crescent`.
    fn any<'a>(words: impl Iterator<Item = &'a [&'a str]>) -> String {
        let mut words: Vec<&str> = words.flatten().copied().collect();
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        words.join("|")
    }

    fn scenes(count: u64) -> impl Iterator<Item = (Scene, Vec<String>)> {
        let pairs = PairSplit::new().seen;
        (0..count).map(move |index| {
            let mut draw = Draw::new(11, 0, index);
            let scene = Scene::new(&pick_pairs(&pairs, [0.4, 0.3], &mut draw), &mut draw);
            let captions = captions(&scene, 5, &mut draw);
            (scene, captions)
        })
    }

    #[test]
    fn captions_are_different() {
        for (scene, mut captions) in scenes(500) {
            captions.sort_unstable();
            captions.dedup();
            assert_eq!(captions.len(), 5, "{scene:?}");
        }
    }

    #[test]
    fn objects_and_relations_are_those_of_the_scene() {
        let object = Regex::new(&format!(
            r"(?:\b({}) )?\b({}) ({})\b",
            any(Size::ALL.iter().map(|size| size.names())),
            any(Colour::ALL.iter().map(|colour| colour.names())),
            any(Shape::ALL.iter().map(|shape| shape.names())),
        ))
        .unwrap();
        let (mut named, mut related) = (0, 0);
        for (scene, captions) in scenes(2_000) {
            for caption in captions {
                let mut found: Vec<(&Object, usize, usize)> = Vec::new();
                for part in object.captures_iter(&caption) {
                    let is = |names: &[&str], group| names.contains(&&part[group]);
                    let object = scene
                        .objects
                        .iter()
                        .find(|object| is(object.colour.names(), 2) && is(object.shape.names(), 3));
                    let object = object.unwrap_or_else(|| panic!("`{caption}`: {scene:?}"));
                    if part.get(1).is_some() {
                        assert!(is(object.size.names(), 1), "`{caption}`: {scene:?}");
                    }
                    let whole = part.get(0).unwrap();
                    found.push((object, whole.start(), whole.end()));
                }
                named += found.len();
                if let [first, second, ..] = found.as_slice() {
                    let [dx, dy] = [0, 1].map(|axis| first.0.centre[axis] - second.0.centre[axis]);
                    let between = &caption[first.2..second.1];
                    let said = [
                        ("left of", -dx, dy),
                        ("right of", dx, dy),
                        ("above", -dy, dx),
                        ("below", dy, dx),
                        ("under", dy, dx),
                    ];
                    for (_, along, across) in said.iter().filter(|said| between.contains(said.0)) {
                        assert!(*along > across.abs(), "`{caption}`: {scene:?}");
                        related += 1;
                    }
                }
            }
        }
        assert!(named > 10_000 && related > 1_500, "{named} {related}");
    }

    #[test]
    fn places_and_backgrounds_are_those_of_the_scene() {
        let patterns = any(Pattern::ALL.iter().map(|pattern| pattern.names()));
        let background = Regex::new(&format!(
            r"\ban? (?:(light|dark) )?(?:({patterns}) )?background"
        ))
        .unwrap();
        let place = Regex::new(r"(?:in|on|at) the (top|bottom)? ?(left|right|middle|center)?\b");
        let place = place.unwrap();
        let (mut backgrounds, mut places) = (0, 0);
        for (scene, captions) in scenes(2_000) {
            for caption in captions {
                assert_eq!(
                    caption.contains("background"),
                    background.is_match(&caption)
                );
                if let Some(part) = background.captures(&caption) {
                    let tone = part.get(1).map(|tone| tone.as_str());
                    let pattern = part.get(2).map(|pattern| pattern.as_str());
                    assert!(tone.is_none_or(|tone| scene.background.tone.name() == Some(tone)));
                    let names = scene.background.pattern.names();
                    assert!(
                        pattern.is_none_or(|pattern| names.contains(&pattern)),
                        "{caption}"
                    );
                    assert!(tone.or(pattern).is_some(), "{caption}");
                    backgrounds += 1;
                }
                if let (Some(part), [object]) = (place.captures(&caption), scene.objects.as_slice())
                {
                    let [x, y] = object.centre;
                    let is = |text: &str| part.iter().skip(1).flatten().any(|p| p.as_str() == text);
                    assert_eq!(is("left"), x < 0.45, "`{caption}`: {scene:?}");
                    assert_eq!(is("right"), x > 0.55, "`{caption}`: {scene:?}");
                    assert_eq!(is("top"), y < 0.45, "`{caption}`: {scene:?}");
                    assert_eq!(is("bottom"), y > 0.55, "`{caption}`: {scene:?}");
                    places += 1;
                }
            }
        }
        assert!(backgrounds > 800 && places > 500, "{backgrounds} {places}");
    }

    #[test]
    fn articles_follow_the_sound() {
        assert_eq!(with_article("orange star"), "an orange star");
        assert_eq!(with_article("red star"), "a red star");
    }
}
