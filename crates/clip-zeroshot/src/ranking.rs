/// Where the right answer of one query stands among the candidates, ties included.
///
/// A model that gives every candidate the same score knows nothing, so its recall must be chance: not 1, as
/// when ties count for the right answer, and not 0, as when they count against it. Counting earlier positions
/// as better would make the result depend on the order of the data. So the numbers here are expectations over
/// a random order of the tied candidates: exact, without a random number, the same for any order of the data,
/// and the usual ones where nothing is tied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TiedRank {
    /// Candidates with a higher score than the best right answer.
    pub better: usize,
    /// Candidates with the same score as the best right answer, itself included.
    pub tied: usize,
    /// Right answers among the tied ones, at least 1.
    pub relevant: usize,
}

impl TiedRank {
    /// Probability that a right answer is among the first `k`.
    pub fn recall_at(self, k: usize) -> f64 {
        let wrong = self.tied - self.relevant;
        let Some(drawn) = k.checked_sub(self.better) else {
            return 0.0;
        };
        if drawn > wrong {
            return 1.0;
        }
        // 1 - C(wrong, drawn) / C(tied, drawn)
        let missed: f64 = (0..drawn)
            .map(|at| (wrong - at) as f64 / (self.tied - at) as f64)
            .product();
        1.0 - missed
    }

    /// Mean rank of the first right answer, from 1.
    pub fn rank(self) -> f64 {
        self.better as f64 + (self.tied as f64 + 1.0) / (self.relevant as f64 + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ties_it_is_the_usual_rank() {
        let third = TiedRank {
            better: 2,
            tied: 1,
            relevant: 1,
        };
        assert!((third.rank() - 3.0).abs() < f64::EPSILON);
        let recalls: Vec<f64> = (0..5).map(|k| third.recall_at(k)).collect();
        assert_eq!(recalls, [0.0, 0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn ties_give_what_a_random_order_gives_on_average() {
        // All orders of six candidates of which three tie behind one better one, two of them right.
        let tied = TiedRank {
            better: 1,
            tied: 3,
            relevant: 2,
        };
        // The wrong one of the three stands first, second or third with equal probability.
        let expected = [0.0, 2.0 / 3.0, 1.0, 1.0];
        for (k, expected) in (1..).zip(expected) {
            assert!((tied.recall_at(k) - expected).abs() < 1e-12, "k = {k}");
        }
        assert!((tied.rank() - (3.0 + 2.0 + 2.0) / 3.0).abs() < 1e-12);
    }

    #[test]
    fn knowing_nothing_is_chance() {
        let nothing = TiedRank {
            better: 0,
            tied: 1000,
            relevant: 1,
        };
        assert!((nothing.recall_at(1) - 0.001).abs() < 1e-12);
        assert!((nothing.recall_at(10) - 0.01).abs() < 1e-12);
        assert!((nothing.rank() - 500.5).abs() < 1e-9);
    }
}
