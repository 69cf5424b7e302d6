package e2e_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// listed is what the admin API lists of an image.
type listed struct {
	Repository, Decision  string
	Quarantined, Admitted bool
	Tags                  []string
}

// audited is what the admin API tells of the audit log.
type audited struct {
	Entries []struct {
		Seq                               int
		Event, Caller, Repository, Result string
	}
	Next     string
	Verified *struct{ Whole bool }
}

// TestConsole asks a running proxy for what operators ask for: what was judged, what is stated of it, and who did what.
func TestConsole(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.reviewed(t)
	access := s.config["access"].(keys)
	access["grants"] = append(access["grants"].([]any), keys{"who": "user:sam", "repositories": []string{"**"}, "actions": []string{"admin"}})
	s.states(t, nil)
	s.push(t, "shop/legacy", shop(badLodash))
	good := s.pushSigned(t, "shop/web", shop(goodLodash))
	p := s.serve(t)
	p.mustPull(t, "shop/web")
	if got := p.pull(t, "shop/legacy"); got.status != http.StatusForbidden {
		t.Fatalf("got %+v", got)
	}
	if got := p.get(t, "/v2/"+host+"/shop/web/referrers/"+good.Digest.String()); got.status != http.StatusOK { // by then it is stated
		t.Fatalf("got %+v", got)
	}
	list := func(t *testing.T, query string) (all []listed) {
		t.Helper()
		got := p.api(t, "sam", "GET", "images?"+query, "")
		var list struct{ Images []listed }
		if err := json.Unmarshal(got.body, &list); err != nil || got.status != http.StatusOK {
			t.Fatalf("got %d %s, %v", got.status, got.body, err)
		}
		return list.Images
	}
	t.Run("images are listed as they stand", func(t *testing.T) {
		legacy := listed{Repository: host + "/shop/legacy", Decision: "deny", Quarantined: true, Tags: []string{"1.0"}}
		web := listed{Repository: host + "/shop/web", Decision: "allow", Admitted: true, Tags: []string{"1.0"}}
		got := slices.DeleteFunc(list(t, ""), func(l listed) bool { return l.Tags == nil }) // the signature, which is judged too
		if diff := cmp.Diff(got, []listed{legacy, web}); diff != "" {
			t.Errorf("-got +want:\n%s", diff)
		}
		if diff := cmp.Diff(list(t, "q=LEGACY&decision=deny"), []listed{legacy}); diff != "" {
			t.Errorf("searched for (-got +want):\n%s", diff)
		}
	})
	t.Run("what is stated of an image is named", func(t *testing.T) {
		var image struct{ Statement struct{ Manifest string } }
		got := p.api(t, "sam", "GET", "images/"+host+"/shop/web:1.0", "")
		if err := json.Unmarshal(got.body, &image); err != nil || !strings.HasPrefix(image.Statement.Manifest, "sha256:") {
			t.Errorf("got %d %s, %v", got.status, got.body, err)
		}
	})
	t.Run("the audit log is told to who operates all of it", func(t *testing.T) {
		for i, name := range []string{"kim", "reader", ""} { // kim first: of refusals that are alike the first is on record
			want := []int{403, 403, 401}[i]
			if got := p.api(t, name, "GET", "audit", ""); got.status != want || bytes.Contains(got.body, []byte("entries")) {
				t.Errorf("%q: got %d %s, want %d", name, got.status, got.body, want)
			}
		}
		var seqs []int
		path := "audit?verify=true&n=3"
		for pages := 0; path != ""; pages++ {
			got := p.api(t, "sam", "GET", path, "")
			var page audited
			if err := json.Unmarshal(got.body, &page); err != nil || got.status != http.StatusOK || pages > 20 {
				t.Fatalf("got %d %s, %v", got.status, got.body, err)
			}
			if pages == 0 && (page.Verified == nil || !page.Verified.Whole) {
				t.Errorf("it is not whole: %s", got.body)
			}
			for _, e := range page.Entries {
				seqs = append(seqs, e.Seq)
			}
			if path = ""; page.Next != "" {
				path = "audit?n=3&before=" + page.Next
			}
		}
		if len(seqs) < 5 || seqs[len(seqs)-1] != 1 || !slices.IsSortedFunc(seqs, func(a, b int) int { return b - a }) {
			t.Errorf("got the lines %d", seqs)
		}
		var refused audited
		got := p.api(t, "sam", "GET", "audit?event=access.refused&caller=user:kim", "")
		if err := json.Unmarshal(got.body, &refused); err != nil || len(refused.Entries) != 1 || refused.Entries[0].Result != "refused" {
			t.Errorf("that kim was kept from it: %s, %v", got.body, err)
		}
	})
	t.Run("every page there is leads to every other", func(t *testing.T) {
		for _, path := range []string{"", "images", "quarantine", "waivers", "recalls", "advisories", "audit", "images/" + host + "/shop/web:1.0"} {
			got := p.api(t, "sam", "GET", "../../"+path, "")
			for _, link := range []string{"/images", "/quarantine", "/waivers", "/recalls", "/advisories", "/audit"} {
				if got.status != http.StatusOK || !bytes.Contains(got.body, []byte(`href="`+link+`"`)) {
					t.Errorf("/%s: got %d without %s:\n%.2000s", path, got.status, link, got.body)
				}
			}
		}
	})
	t.Run("everything that is described is there", func(t *testing.T) {
		var document struct {
			Paths map[string]map[string]any
		}
		if err := json.Unmarshal(p.api(t, "", "GET", "openapi.json", "").body, &document); err != nil || len(document.Paths) < 15 {
			t.Fatalf("%d paths, %v", len(document.Paths), err)
		}
		for path, methods := range document.Paths {
			if methods["get"] == nil || strings.Contains(path, "{") || strings.HasSuffix(path, "/events") { // which does not end
				continue
			}
			want := http.StatusOK
			if strings.HasSuffix(path, "/eligible") { // of nothing
				want = http.StatusBadRequest
			}
			if got := p.api(t, "sam", "GET", strings.TrimPrefix(path, "/api/v1/"), ""); got.status != want {
				t.Errorf("%s: got %d %s", path, got.status, got.body)
			}
		}
	})
}
