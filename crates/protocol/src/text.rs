//! The rule for a line of text that people read, names and reasons, sizes in words, and Markdown as plain text. Pure.

/// The reason for which a line is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    /// The line shows nothing: it is empty, or all its characters are invisible.
    Blank,
    /// The line has more characters than allowed.
    TooLong,
    /// The line holds a control character, a mark of direction, or an invisible character.
    Unprintable,
}

/// Returns the trimmed line.
///
/// # Errors
/// When the line shows nothing, has more than `max_chars` characters, or holds an unprintable character. Joiners and
/// variation selectors are printable after a visible character, as emoji and several scripts need them.
pub fn check_line(text: &str, max_chars: usize) -> Result<&str, LineError> {
    let line = text.trim();
    if !line.chars().any(is_visible) {
        return Err(LineError::Blank);
    }
    if line.chars().count() > max_chars {
        return Err(LineError::TooLong);
    }
    let mut before = ' ';
    for c in line.chars() {
        let is_joined = is_joiner(c) && (is_visible(before) || is_joiner(before));
        // The flags of England, Scotland and Wales: a black flag with the tag characters of a region behind it.
        let is_flag_tag = is_tag(c) && (before == BLACK_FLAG || is_tag(before));
        if !is_printable(c) && !is_joined && !is_flag_tag {
            return Err(LineError::Unprintable);
        }
        before = c;
    }
    Ok(line)
}

/// Binary units with one decimal: "1.5 GiB".
pub fn describe_bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = UNITS.iter().find(|(size, _)| bytes >= *size);
    let Some((size, name)) = unit else { return format!("{bytes} bytes") };
    // The rest in tenths of the unit: less than ten.
    format!("{}.{} {name}", bytes / size, bytes % size * 10 / size)
}

/// Returns a line of Markdown as plain text: of a link its text, and code without the backticks.
pub fn plain_text(markdown: &str) -> String {
    let (mut text, mut rest) = (String::new(), markdown);
    while let Some((before, (label, after))) =
        rest.split_once('[').and_then(|(before, link)| Some((before, split_link(link)?)))
    {
        text.extend([before, label]);
        rest = after;
    }
    text.push_str(rest);
    text.retain(|c| c != '`');
    text
}

/// Splits behind the bracket that opens a link: its text, and what follows its target.
fn split_link(link: &str) -> Option<(&str, &str)> {
    let (label, target) = link.split_once("](")?;
    Some((label, target.split_once(')')?.1))
}

const BLACK_FLAG: char = '\u{1f3f4}';

fn is_tag(c: char) -> bool {
    matches!(c, '\u{e0020}'..='\u{e007f}')
}

/// Zero-width joiner and non-joiner, and variation selectors.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}')
}

/// Whether a character leaves a mark on a page.
fn is_visible(c: char) -> bool {
    // Blanks that Unicode counts as letters or symbols, and further default-ignorable characters.
    let is_blank = matches!(c,
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{1d159}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}');
    is_printable(c) && !c.is_whitespace() && !is_blank
}

/// Whether a character is none that controls, or that hides, turns around or breaks its neighbours.
pub fn is_printable(c: char) -> bool {
    let is_hidden = matches!(c,
        '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !is_direction_mark(c) && !is_hidden
}

/// Whether a character is a mark of direction or a separator of lines, which moves its neighbours on a page.
pub fn is_direction_mark(c: char) -> bool {
    matches!(c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_described_in_the_largest_unit() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1_023, "1023 bytes"),
            (1_536, "1.5 KiB"),
            (10 << 30, "10.0 GiB"),
            ((10 << 30) - 1, "9.9 GiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ] {
            assert_eq!(describe_bytes(bytes), text);
        }
    }

    #[test]
    fn a_line_needs_a_visible_character() {
        for blank in [
            "",
            " \t",
            "\u{200b}",
            "\u{ad}",
            "\u{2800}",
            "\u{3164}",
            "\u{feff}",
            "\u{2060}",
            "\u{e0041}",
            "\u{200d}",
            "\u{fe0f}",
            "\u{115f}\u{1160}",
            "\u{ffa0}",
            "\u{34f}",
            "\u{200b} \u{2800}\u{3164}",
            "\u{202e}",
            "\u{e0100}",
        ] {
            assert_eq!(check_line(blank, 100), Err(LineError::Blank), "{blank:?}");
        }
    }

    #[test]
    fn readable_lines_pass_trimmed() {
        for line in [
            "Ada",
            "Žofie O'Brien-Łukasz",
            "山田太郎",
            "👩\u{200d}💻",
            "👨\u{200d}👩\u{200d}👧",
            "❤\u{fe0f}\u{200d}🔥",
            "🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
            "می\u{200c}خواهم",
            "क\u{94d}\u{200d}ष",
            "a\u{3164}b",
        ] {
            assert_eq!(check_line(&format!(" {line} "), 100), Ok(line), "{line:?}");
        }
    }

    #[test]
    fn plain_text_keeps_the_text_of_links_and_code() {
        for (markdown, text) in [
            ("start it", "start it"),
            ("set `A`; see [b](../b.md#c), then [d](d.md)", "set A; see b, then d"),
            ("an [open bracket", "an [open bracket"),
        ] {
            assert_eq!(plain_text(markdown), text);
        }
    }

    #[test]
    fn hidden_and_turning_characters_are_refused() {
        for line in [
            "a\nb",
            "a\u{202e}b",
            "a\u{2066}b",
            "a\u{200f}b",
            "a\u{200b}b",
            "a\u{ad}b",
            "a\u{feff}b",
            "\u{200d}a",
            "a \u{200d}b",
            "a\u{e0041}b",
            "a\u{0}",
        ] {
            assert_eq!(check_line(line, 100), Err(LineError::Unprintable), "{line:?}");
        }
        assert_eq!(check_line("abcd", 3), Err(LineError::TooLong));
        assert_eq!(check_line("äöü", 3), Ok("äöü"));
    }
}
