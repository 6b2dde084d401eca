/// A duration as people read it: `42s`, `12m03s`, `3h07m`, `2d04h`.
pub fn human_duration(seconds: f64) -> String {
    // Anything longer is a rate that hasn't settled yet, not a forecast.
    const LONGEST: f64 = 365.0 * 86_400.0;
    if !seconds.is_finite() || !(0.0..=LONGEST).contains(&seconds) {
        return "?".to_string();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3_600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h{:02}m", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

/// A count with its thousands set apart by commas: `151,277,313`.
pub fn human_count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A value in `digits` significant digits, with an exponent where zeros would only fill space.
pub fn significant(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "not finite".to_string();
    }
    if value == 0.0 {
        return "0".to_string();
    }
    let exponent = value.abs().log10().floor() as i32;
    if !(-3..7).contains(&exponent) {
        return format!("{value:.*e}", digits.saturating_sub(1));
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    format!("{value:.decimals$}")
}

/// A share from 0 to 1 in percent, with one digit: `8.8%`.
pub fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// An amount of memory in GiB, with two digits: `2.60 GiB`.
pub fn gibibytes(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_two_units() {
        let cases = [
            (0.4, "0s"),
            (59.6, "1m00s"),
            (723.0, "12m03s"),
            (11_220.0, "3h07m"),
            (187_200.0, "2d04h"),
            (f64::INFINITY, "?"),
            (-1.0, "?"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human_duration(seconds), text);
        }
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(human_count(0), "0");
        assert_eq!(human_count(999), "999");
        assert_eq!(human_count(151_277_313), "151,277,313");
    }

    #[test]
    fn significant_digits_not_decimals() {
        let cases = [
            (3.912_34, "3.912"),
            (0.000_98, "9.800e-4"),
            (84.26, "84.26"),
            (12_345.6, "12346"),
            (0.0, "0"),
            (f64::NAN, "not finite"),
        ];
        for (value, text) in cases {
            assert_eq!(significant(value, 4), text);
        }
    }

    #[test]
    fn shares_and_memory_keep_the_same_digits_at_any_size() {
        assert_eq!(percent(0.088), "8.8%");
        assert_eq!(percent(1.0), "100.0%");
        assert_eq!(gibibytes(7 << 30), "7.00 GiB");
        assert_eq!(gibibytes(1 << 20), "0.00 GiB");
    }
}
