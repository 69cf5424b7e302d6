package report

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

func TestExceptionsAsOpenVEX(t *testing.T) {
	from := time.Date(2026, 11, 22, 12, 0, 0, 500, time.UTC)
	digest := oci.FromBytes([]byte("image"))
	e := Exceptions{Version: "1", Created: from, Exceptions: []Exception{
		{ID: "w1", Vulnerability: "CVE-1", Package: "deb/openssl", Repositories: []string{"docker.io/library/nginx"}, Digest: digest, Reason: "not reachable", Ticket: "OPS-1", By: "user:sam", From: from, Until: from.Add(time.Hour)},
		{Vulnerability: "CVE-2", Repositories: []string{"ghcr.io/acme/**"}, Reason: "x", By: "alice", Until: from.Add(time.Hour)},
		{ID: "w3", Vulnerability: "CVE-3", Digest: digest, Reason: "vulnerable_code_not_present: stripped at build", By: "user:sam", From: from, Until: from.Add(time.Hour)},
		{ID: "w4", Vulnerability: "CVE-4", Digest: digest, Reason: "not_a_justification: x", By: "user:sam", From: from, Until: from.Add(time.Hour)},
	}}
	document, err := e.OpenVEX()
	if err != nil {
		t.Fatal(err)
	}
	if none, err := (Exceptions{Version: "1", Created: from}).OpenVEX(); err != nil || none != nil {
		t.Errorf("of no exceptions there is a document: %s, %v", none, err)
	}
	again, err := e.OpenVEX()
	if diff := cmp.Diff(document, again); err != nil || diff != "" {
		t.Errorf("the same exceptions give another document: %v\n%s", err, diff)
	}
	golden := filepath.Join("testdata", "waivers.openvex.json")
	if *update {
		if err := os.WriteFile(golden, document, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wrote, err := os.ReadFile(golden)
	if diff := cmp.Diff(string(document), string(wrote)); err != nil || diff != "" {
		t.Errorf("%v (-got +%s):\n%s", err, golden, diff)
	}
	type statement struct {
		Vulnerability struct{ Name string }
		Products      []struct {
			ID            string `json:"@id"`
			Subcomponents []struct {
				ID string `json:"@id"`
			}
		}
		Status, Justification, Impact string
		Action                        string `json:"action_statement"`
	}
	var got struct {
		Context    string `json:"@context"`
		ID         string `json:"@id"`
		Statements []statement
	}
	if err := json.Unmarshal(document, &got); err != nil || got.Context == "" || got.ID == "" || len(got.Statements) != 4 {
		t.Fatalf("%v: %s", err, document)
	}
	var said [][]string
	for _, s := range got.Statements {
		one := []string{s.Vulnerability.Name, s.Status, s.Justification, s.Action, s.Products[0].ID}
		for _, c := range s.Products[0].Subcomponents {
			one = append(one, c.ID)
		}
		said = append(said, one)
	}
	want := [][]string{
		{"CVE-1", "affected", "", "accepted by user:sam until 2026-11-22T13:00:00Z: not reachable (OPS-1)",
			"pkg:oci/nginx@" + "sha256:" + digest.Encoded() + "?repository_url=docker.io%2Flibrary%2Fnginx", "pkg:deb/openssl"},
		{"CVE-2", "affected", "", "accepted by alice until 2026-11-22T13:00:00Z: x", "urn:tidewaiter:repositories:ghcr.io%2Facme%2F%2A%2A"},
		{"CVE-3", "not_affected", "vulnerable_code_not_present", "", "urn:tidewaiter:manifest:" + digest.String()},
		{"CVE-4", "affected", "", "accepted by user:sam until 2026-11-22T13:00:00Z: not_a_justification: x", "urn:tidewaiter:manifest:" + digest.String()},
	}
	if diff := cmp.Diff(said, want); diff != "" {
		t.Errorf("-got +want:\n%s", diff)
	}
}
