//! The README does what it says.

use tests::{binary, readme};

/// A newcomer types it line by line; so does this test.
#[test]
fn every_console_block_of_the_readme_runs_as_shown() {
    let file = binary::workspace().join("README.md");
    // Part of the tree once it is written; a missing README is for a reviewer to see, not for this.
    if file.exists() {
        readme::run(&file);
    }
}
