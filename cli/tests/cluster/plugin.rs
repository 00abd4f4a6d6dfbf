//! The program as kubectl's plugin.

use std::process::Command;

use crate::api_server::ApiServer;

#[test]
fn the_plugin_is_put_where_it_is_wanted_and_calls_itself_as_kubectl_does() {
    let server = ApiServer::new();
    let folder = server.folder().join("bin");
    std::fs::create_dir(&folder).unwrap();
    let text = server.prints(&["install-plugin", "--link", "--dir", folder.to_str().unwrap()]);
    let plugin = folder.join("kubectl-atoll");
    assert_eq!(text, format!("linked as {}; now: kubectl atoll status\n", plugin.display()));
    let help = Command::new(&plugin).args(["status", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("Usage: kubectl atoll status [OPTIONS] [RUN]"), "{help}");
    let said = server.says(&["install-plugin", "--dir", plugin.to_str().unwrap()], 2);
    assert!(said.contains("is no folder"), "{said}");
}
