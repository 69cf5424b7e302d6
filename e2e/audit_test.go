package e2e_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// recorded returns what is on record after the first skip lines: who did, or was kept from doing, what. Other kinds of lines, and who was
// given a token, are left out.
func (s *site) recorded(t *testing.T, skip int) (all []string, lines int) {
	t.Helper()
	raw, err := os.ReadFile(s.path("audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for row := range strings.Lines(string(raw)) {
		var l struct {
			Seq                                                               int
			Event, Caller, Action, Repository, Tag, Digest, Result, RequestID string
		}
		if err := json.Unmarshal([]byte(row), &l); err != nil {
			t.Fatalf("line %q: %v", row, err)
		}
		of, _, _ := strings.Cut(l.Event, ".")
		if lines++; lines > skip && slices.Contains([]string{"access", "quarantine", "waiver"}, of) && l.Event != "access.token_issued" {
			all = append(all, strings.Join(slices.DeleteFunc([]string{l.Caller, l.Action, l.Repository, l.Tag, l.Digest, l.Result}, func(s string) bool { return s == "" }), " "))
		}
	}
	return all, lines
}

// verified has the program say whether the audit log is whole.
func (s *site) verified(t *testing.T) {
	t.Helper()
	got := tidewaiter(t, "audit", "verify", "--config", s.path("tidewaiter.yaml"), "-o", "json")
	var report struct{ Whole bool }
	if err := json.Unmarshal([]byte(got.stdout), &report); err != nil || !report.Whole || got.code != 0 {
		t.Errorf("audit verify exits with %d: %s%s, want it whole", got.code, got.stdout, got.stderr)
	}
}

// TestEveryChangeIsOnRecord kills the proxy as soon as it has acknowledged, or refused, each thing that changes a repository, and looks
// whether that is on record.
func TestEveryChangeIsOnRecord(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	s.config["audit"] = keys{"path": s.path("audit.jsonl")}
	config := s.write(t)
	image := s.push(t, "shop/web", shop(goodLodash))
	signature, err := s.upstream.SignBundle("shop/web", image.Digest, s.release, ocitest.Statement{}, ocitest.Mint{})
	if err != nil {
		t.Fatal(err)
	}
	layer := s.parsed(t, "shop/web", image.Digest).Layers[0].Digest
	const empty = `{"schemaVersion":2,"manifests":[]}`
	digestOf := func(s string) string { return oci.FromBytes([]byte(s)).String() }
	seen := 0
	const tag = "/v2/apps/web/manifests/1.0"
	for _, step := range []struct {
		law  string
		do   func(p *server)
		want []string
	}{
		{"a push", func(p *server) { pusher{t, p, "ci"}.image(s.upstream, "shop/web", image.Digest, "apps/web", "1.0") },
			[]string{"user:ci push apps/web 1.0 " + image.Digest.String() + " allowed"}},
		{"a signature", func(p *server) {
			pusher{t, p, "signer"}.image(s.upstream, "shop/web", signature.Digest, "apps/web", "")
		},
			[]string{"user:signer sign apps/web " + signature.Digest.String() + " allowed"}},
		{"a push that is refused", func(p *server) {
			pusher{t, p, "signer"}.must(403, "PUT", tag, strings.NewReader(empty), "Content-Type", oci.MediaTypeIndex)
		}, []string{"user:signer push apps/web 1.0 " + digestOf(empty) + " refused"}},
		{"a deletion that is refused", func(p *server) { pusher{t, p, "signer"}.must(403, "DELETE", tag, nil) },
			[]string{"user:signer delete apps/web 1.0 refused"}},
		{"credentials that do not hold", func(p *server) {
			if r := basicAuth("ci", "wrong").ask(t, p, "GET", "/v2/", ""); r.status != 401 {
				t.Errorf("got %d", r.status)
			}
		}, []string{"ci refused"}},
		{"the deletion of a blob", func(p *server) {
			pusher{t, p, "ci"}.must(202, "DELETE", "/v2/apps/web/blobs/"+layer.String(), nil)
		}, []string{"user:ci delete apps/web " + layer.String() + " allowed"}},
		{"the deletion of a tag", func(p *server) { pusher{t, p, "ci"}.must(202, "DELETE", tag, nil) },
			[]string{"user:ci delete apps/web 1.0 allowed"}},
		{"the deletion of a manifest", func(p *server) {
			pusher{t, p, "ci"}.must(202, "DELETE", "/v2/apps/web/manifests/"+image.Digest.String(), nil)
		}, []string{"user:ci delete apps/web " + image.Digest.String() + " allowed"}},
	} {
		t.Run(step.law, func(t *testing.T) {
			p := serve(t, config)
			step.do(p)
			p.kill()
			s.verified(t)
			var got []string
			got, seen = s.recorded(t, seen)
			if diff := cmp.Diff(got, step.want); diff != "" {
				t.Errorf("on record (-got +want):\n%s", diff)
			}
		})
	}
	t.Run("and what is taken off it is missed", func(t *testing.T) {
		raw, err := os.ReadFile(s.path("audit.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		rows := slices.Collect(strings.Lines(string(raw)))
		writeFile(t, s.path("audit.jsonl"), []byte(strings.Join(rows[:len(rows)-1], "")))
		if got := tidewaiter(t, "audit", "verify", "--config", config); got.code != 3 {
			t.Errorf("audit verify exits with %d: %s, want 3", got.code, got.stdout)
		}
	})
}
