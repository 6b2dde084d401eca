use crate::html::push;

/// Colours and type of a drawing that is a file: those of the page by day, without variables, which not every program
/// that shows SVG knows.
const STYLE: &str = include_str!("drawing.css");
/// Room for the title above a drawing that is a file.
const TITLE: f64 = 34.0;

/// A drawing that stands on a page, or in a file of its own. Texts and elements are XML already.
pub(crate) struct Drawing {
    pub(crate) title: String,
    /// In words, for those who can't see it.
    pub(crate) summary: String,
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) elements: String,
}

impl Drawing {
    /// As a figure of a page, whose style sheet it needs.
    pub(crate) fn figure(&self) -> String {
        format!(
            "<figure class=\"chart\"><figcaption><h3>{}</h3></figcaption><div class=\"plot\">\
             <svg viewBox=\"0 0 {:.0} {:.0}\" role=\"img\" aria-label=\"{}\">{}</svg></div></figure>\n",
            self.title, self.width, self.height, self.summary, self.elements
        )
    }

    /// As an SVG file that needs nothing else.
    pub(crate) fn file(&self) -> String {
        let (width, height) = (self.width, self.height + TITLE);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 -{TITLE} {width:.0} {height:.0}\" role=\"img\" aria-label=\"{}\">",
            self.summary
        );
        push(
            &mut svg,
            format_args!(
                "<style>{STYLE}</style><rect class=\"paper\" y=\"-{TITLE}\" width=\"100%\" height=\"100%\"/>\
             <text class=\"title\" x=\"12\" y=\"-12\">{}</text>{}</svg>\n",
                self.title, self.elements
            ),
        );
        svg
    }
}
