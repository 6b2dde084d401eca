use std::path::Path;

use crate::ZeroShotError;

/// What accuracy under a distribution shift to expect of an accuracy without it, fitted to models that no one made
/// robust: a line between the logits of the two.
///
/// # References
/// Taori et al. 2020, [Measuring Robustness to Natural Distribution Shifts in Image
/// Classification](https://arxiv.org/abs/2007.00644); Radford et al. 2021, section 3.3.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ReferenceLine {
    slope: f64,
    intercept: f64,
}

fn logit(share: f64) -> f64 {
    (share / (1.0 - share)).ln()
}

impl ReferenceLine {
    /// Fits the line by least squares to pairs of accuracies, without and under the shift.
    ///
    /// # Errors
    /// Why they give no line, and the remedy.
    pub fn fit(points: &[(f64, f64)]) -> Result<Self, String> {
        let inside = |share: f64| share > 0.0 && share < 1.0;
        if let Some((clean, shifted)) = points
            .iter()
            .find(|(clean, shifted)| !inside(*clean) || !inside(*shifted))
        {
            return Err(format!(
                "`{clean},{shifted}`: both accuracies must lie between 0 and 1"
            ));
        }
        let count = points.len() as f64;
        let mean =
            |values: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(values).sum::<f64>() / count;
        let (x, y) = (mean(&|point| logit(point.0)), mean(&|point| logit(point.1)));
        let products = mean(&|point| (logit(point.0) - x) * (logit(point.1) - y));
        let squares = mean(&|point| (logit(point.0) - x).powi(2));
        if points.len() < 2 || squares < 1e-12 {
            return Err("give two models at least, of different accuracies".to_owned());
        }
        let slope = products / squares;
        Ok(Self {
            slope,
            intercept: y - slope * x,
        })
    }

    /// Reads one model a line: its accuracies without and under the shift, between 0 and 1, with a comma between; lines
    /// that begin with `#` are comments.
    ///
    /// # Errors
    /// [`ZeroShotError::Io`], or [`ZeroShotError::BadLine`].
    pub fn from_file(path: &Path) -> Result<Self, ZeroShotError> {
        let text = std::fs::read_to_string(path).map_err(clip_files::io("read", path))?;
        let bad = |line, reason| ZeroShotError::BadLine {
            origin: path.display().to_string(),
            line,
            reason,
        };
        let mut points = Vec::new();
        for (text, line) in text.lines().zip(1..) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let pair = text.split_once(',').and_then(|(clean, shifted)| {
                Some((clean.trim().parse().ok()?, shifted.trim().parse().ok()?))
            });
            points.push(pair.ok_or_else(|| {
                let reason = format!("`{text}` is no pair of accuracies such as `0.76,0.63`");
                bad(line, reason)
            })?);
        }
        Self::fit(&points).map_err(|reason| bad(text.lines().count(), reason))
    }

    /// The accuracy under the shift that an accuracy without it lets expect.
    pub fn expected(self, clean: f64) -> f64 {
        // Where every sample is right or wrong the logit is infinite, and so is the expectation's.
        let logit = self.slope * logit(clean.clamp(0.0, 1.0)) + self.intercept;
        1.0 / (1.0 + (-logit).exp())
    }

    /// The accuracy under the shift, less what was to be expected.
    pub fn effective_robustness(self, clean: f64, shifted: f64) -> f64 {
        shifted - self.expected(clean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_on_the_line_have_no_effective_robustness() {
        // logit(shifted) = 2 logit(clean) - 1
        let on_line = |clean: f64| 1.0 / (1.0 + (1.0 - 2.0 * logit(clean)).exp());
        let points = [0.5, 0.6, 0.8].map(|clean| (clean, on_line(clean)));
        let line = ReferenceLine::fit(&points).unwrap();
        assert!(line.effective_robustness(0.7, on_line(0.7)).abs() < 1e-9);
        assert!((line.effective_robustness(0.7, on_line(0.7) + 0.1) - 0.1).abs() < 1e-9);
        assert!((line.expected(1.0) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_file_without_a_line_says_what_it_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reference.csv");
        let error = |text: &str| {
            std::fs::write(&path, text).unwrap();
            ReferenceLine::from_file(&path).unwrap_err().to_string()
        };
        assert!(error("# clean,shifted\n0.7;0.5\n").contains("line 2: `0.7;0.5`"));
        assert!(error("0.7,0.5\n").contains("two models at least"));
        assert!(error("70,50\n60,40\n").contains("between 0 and 1"));
    }
}
