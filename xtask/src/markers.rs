//! Parts of a page that a command writes, between `<!-- NAME begin -->` and `<!-- NAME end -->`.

use anyhow::{Context as _, Result};

/// `page` with `content` between the markers of `name`, each on a line of its own.
pub(crate) fn replace(page: &str, name: &str, content: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {name} begin -->\n"), format!("<!-- {name} end -->"));
    let missing = || format!("the page has no markers of {name}");
    let (before, rest) = page.split_once(&begin).with_context(missing)?;
    let (_, after) = rest.split_once(&end).with_context(missing)?;
    Ok(format!("{before}{begin}\n{}\n\n{end}{after}", content.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_between_the_markers_changes() {
        let page = "# A\n<!-- t begin -->\nold\n<!-- t end -->\nB\n";
        let once = replace(page, "t", "new\n").unwrap();
        assert_eq!(once, "# A\n<!-- t begin -->\n\nnew\n\n<!-- t end -->\nB\n");
        assert_eq!(replace(&once, "t", "new").unwrap(), once);
        assert!(replace(page, "other", "new").is_err());
    }
}
