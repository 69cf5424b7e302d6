package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/audit"
	"github.com/tidewaiter/tidewaiter/seal"
)

func TestAuditVerify(t *testing.T) {
	dir := t.TempDir()
	path, config := filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "tidewaiter.yaml")
	if err := os.WriteFile(config, []byte("audit: {path: "+path+"}\nstorage: {filesystem: {root: "+dir+"}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	verify := func(law string, code int, stdout, stderr string) {
		t.Helper()
		got := command(t, "audit", "verify", "--config", config)
		if got.code != code || !strings.Contains(got.stdout, stdout) || !strings.Contains(got.stderr, stderr) {
			t.Errorf("%s: got %+v", law, got)
		}
	}
	verify("without a seal key nobody can tell, and none is made", exitFailure, "", "seal.key")
	key, err := seal.CreateKey(filepath.Join(dir, sealKeyName))
	if err != nil {
		t.Fatal(err)
	}
	verify("without a file neither", exitFailure, "", "audit.jsonl")
	l, err := audit.Open(audit.Options{Path: path, Key: key, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := l.Record(t.Context(), audit.Event{Event: "access.refused", Caller: "user:ci"}); err != nil {
			t.Fatal(err)
		}
	}
	verify("while it is written", exitDone, "4 records hold", "")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	verify("when it was closed", exitDone, "5 records hold", "")
	var report audit.Report
	if got := command(t, "audit", "verify", "--config", config, "-o", "json"); json.Unmarshal([]byte(got.stdout), &report) != nil || !report.Whole {
		t.Errorf("as JSON: got %+v", got)
	}
	content := readFile(t, path)
	if err := os.WriteFile(path, bytes.Replace(content, []byte("user:ci"), []byte("user:cd"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	verify("a changed line is named", exitDenied, "broken at line 2", "broken at line 2")
	if got := command(t, "audit", "verify"); got.code != exitUsage {
		t.Errorf("without an audit log in the configuration: got %+v", got)
	}
}
