package proxy

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// as returns the header by which somebody shows who he is; nothing for nobody.
func as(name string) []string {
	if name == "" {
		return nil
	}
	return []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+everybodysPassword))}
}

// TestPending goes through who gets what of an image that is pushed, denied, admitted, and pushed over.
func TestPending(t *testing.T) {
	f := newFixture(t)
	d := withDock(f)
	fresh := d.pushed(f, web, "fresh", "fresh") // nobody has decided: the zero verdict, a denial
	denied := d.pushed(f, web, "denied", "denied")
	f.deny(denied, "unsigned")
	old := d.pushed(f, web, "moved", "old")
	d.serve(web, "moved")
	f.allow(old)
	moved := d.pushed(f, web, "moved", "moved")
	f.deny(moved, "unsigned")
	signatures := "sha256-" + old.Digest.Encoded() + ".sig"
	oneSignature := d.pushed(f, web, signatures, "one signature")
	d.serve(web, signatures)
	moreSignatures := d.pushed(f, web, signatures, "more signatures")
	noSignatures := "sha256-" + moved.Digest.Encoded() + ".sig"
	aSignature := d.pushed(f, web, noSignatures, "a signature")
	d.serve(web, noSignatures)
	f.deny(d.pushed(f, web, noSignatures, "no signature"), "unsigned")
	f.allow(oneSignature, moreSignatures, aSignature)
	layer := func(marker string) string {
		return "/v2/apps/web/blobs/" + oci.FromBytes([]byte("layer of "+marker)).String()
	}
	manifest := func(reference string) string { return "/v2/apps/web/manifests/" + reference }
	for _, tt := range []struct {
		law, who, method, target string
		want                     int
		wantDigest               oci.Digest
	}{
		{"whoever pushes gets what is pending", "ci", "GET", manifest("fresh"), 200, fresh.Digest},
		{"and is told of it", "ci", "HEAD", manifest("fresh"), 200, fresh.Digest},
		{"also by digest", "ci", "GET", manifest(fresh.Digest.String()), 200, fresh.Digest},
		{"and its blobs", "ci", "GET", layer("fresh"), 200, ""},
		{"whoever signs does too", "signer", "GET", manifest("fresh"), 200, fresh.Digest},
		{"and its blobs too", "signer", "HEAD", layer("fresh"), 200, ""},
		{"others are judged", "reader", "GET", manifest("fresh"), 403, ""},
		{"others are judged by digest", "reader", "GET", manifest(fresh.Digest.String()), 403, ""},
		{"others are told of it, and get the refusal later", "reader", "HEAD", manifest("fresh"), 200, fresh.Digest},
		{"others get no blob of it", "reader", "GET", layer("fresh"), 404, ""},
		{"a denial hides nothing from whoever pushes", "ci", "GET", manifest("denied"), 200, denied.Digest},
		{"a denial is one for others", "reader", "GET", manifest("denied"), 403, ""},
		{"a tag is what was pushed last to whoever pushes", "ci", "GET", manifest("moved"), 200, moved.Digest},
		{"a tag is what was admitted last to others", "reader", "GET", manifest("moved"), 200, old.Digest},
		{"a tag is what was admitted last to others, HEAD", "reader", "HEAD", manifest("moved"), 200, old.Digest},
		{"a tag of signatures is what was pushed last to everybody, once it is allowed", "reader", "GET", manifest(signatures), 200, moreSignatures.Digest},
		{"and what was admitted last, if it is not", "reader", "GET", manifest(noSignatures), 200, aSignature.Digest},
		{"what has been admitted has blobs", "reader", "GET", layer("old"), 200, ""},
		{"what has not been has none", "reader", "GET", layer("moved"), 404, ""},
		{"what nobody pushed is not there", "ci", "GET", manifest("nothing"), 404, ""},
		{"what nobody pushed is not there, HEAD", "ci", "HEAD", manifest("nothing"), 404, ""},
		{"what nobody pushed is not there, by digest", "ci", "HEAD", manifest(oci.FromBytes(nil).String()), 404, ""},
		{"what nobody pushed is not there for others", "reader", "GET", manifest(oci.FromBytes(nil).String()), 404, ""},
		{"nobody at all", "", "GET", manifest("fresh"), 401, ""},
		{"nobody at all, HEAD", "", "HEAD", manifest("fresh"), 401, ""},
		{"somebody without the right", "reader", "GET", "/v2/apps/api/manifests/fresh", 403, ""},
		{"somebody without the right, where nothing is", "reader", "GET", "/v2/apps/none/manifests/fresh", 403, ""},
		{"who pushes somewhere reads upstreams as everybody does", "ci", "GET", "/v2/docker.io/library/app/manifests/x", 404, ""},
	} {
		t.Run(tt.law, func(t *testing.T) {
			f.opened = nil
			w := f.do(tt.method, tt.target, as(tt.who)...)
			if got := oci.Digest(w.Header().Get("Docker-Content-Digest")); w.Code != tt.want || tt.wantDigest != "" && got != tt.wantDigest {
				t.Errorf("got %d %s %s, want %d %s", w.Code, got, w.Body, tt.want, tt.wantDigest)
			}
			if tt.who != "reader" && len(f.opened) > 0 {
				t.Errorf("released content was opened: %v", f.opened)
			}
		})
	}
	if !slices.Contains(f.started, moved) {
		t.Error("nobody began to judge what a tag was moved to")
	}
	t.Run("the refusals without a right are the same word for word", func(t *testing.T) {
		a, b := f.do("GET", "/v2/apps/api/manifests/fresh", as("reader")...), f.do("GET", "/v2/apps/none/manifests/fresh", as("reader")...)
		if a.Body.String() != b.Body.String() {
			t.Errorf("got %s and %s", a.Body, b.Body)
		}
	})
}

// TestWhoeverShowsNothingIsAsked: many clients that have credentials show them only then, and what is pending is there for some.
func TestWhoeverShowsNothingIsAsked(t *testing.T) {
	f := newFixture(t)
	d := withDock(f)
	f.allow(d.pushed(f, web, "v1", "web"), f.image(app, "v1", "app"))
	f.door.rights["anonymous **"] = []access.Action{access.Pull}
	f.door.rights["user:anybody **"] = []access.Action{access.Pull}
	for _, tt := range []struct {
		law, challenge, who, target string
		want                        int
	}{
		{"in a hosted repository", "Bearer", "", "/v2/apps/web/manifests/v1", 401},
		{"once only", "Bearer", "anybody", "/v2/apps/web/manifests/v1", 200},
		{"not where nobody can have credentials", "", "", "/v2/apps/web/manifests/v1", 200},
		{"not at an upstream", "Bearer", "", "/v2/docker.io/library/app/manifests/v1", 200},
	} {
		f.door.challenge = tt.challenge
		if w := f.do("GET", tt.target, as(tt.who)...); w.Code != tt.want {
			t.Errorf("%s: got %d %s, want %d", tt.law, w.Code, w.Body, tt.want)
		}
	}
}

func TestDeletedManifestHoldsNothing(t *testing.T) {
	f := newFixture(t)
	d := withDock(f)
	c := d.pushed(f, web, "v1", "gone")
	f.allow(c)
	delete(d.manifests, c) // though a verdict allows it, and blobs of it are released
	for _, target := range []string{"manifests/" + c.Digest.String(), "blobs/" + oci.FromBytes([]byte("layer of gone")).String()} {
		if w := f.do("GET", "/v2/apps/web/"+target, as("reader")...); w.Code != 404 {
			t.Errorf("%s: got %d, want 404", target, w.Code)
		}
	}
}

func TestPingTellsHowToAuthenticate(t *testing.T) {
	f := newFixture(t)
	for _, tt := range []struct {
		law, challenge string
		headers        []string
		want           int
	}{
		{"nobody can have credentials", "", nil, 200},
		{"nobody is asked who shows them", "Basic", as("ci"), 200},
		{"whoever shows nothing is told how", "Basic", nil, 401},
		{"credentials that are not good", "Basic", []string{"Authorization", "Basic Y2k6d3Jvbmc="}, 401},
	} {
		f.door.challenge = tt.challenge
		w := f.do("GET", "/v2/", tt.headers...)
		if got := w.Header().Get("WWW-Authenticate"); w.Code != tt.want || (got != "") != (tt.want == 401) {
			t.Errorf("%s: got %d and %q, want %d", tt.law, w.Code, got, tt.want)
		}
	}
}

func TestChallengeNamesTheScope(t *testing.T) {
	f := newFixture(t)
	withDock(f)
	for target, want := range map[string]string{
		"GET /v2/apps/web/manifests/v1":                                 "apps/web:pull",
		"HEAD /v2/apps/web/blobs/" + oci.FromBytes(nil).String():        "apps/web:pull",
		"GET /v2/apps/web/tags/list":                                    "apps/web:pull",
		"PUT /v2/apps/web/manifests/v1":                                 "apps/web:push",
		"POST /v2/apps/web/blobs/uploads/":                              "apps/web:push",
		"DELETE /v2/apps/web/manifests/v1":                              "apps/web:delete",
		"GET /v2/docker.io/library/app/manifests/v1":                    "docker.io/library/app:pull",
		"HEAD /v2/library/app/manifests/v1?ns=docker.io":                "docker.io/library/app:pull",
		"GET /v2/library/app/referrers/" + oci.FromBytes(nil).String():  "docker.io/library/app:pull",
		"DELETE /v2/apps/web/blobs/uploads/some":                        "apps/web:push",
		"DELETE /v2/apps/web/blobs/" + oci.FromBytes([]byte{}).String(): "apps/web:delete",
	} {
		method, path, _ := strings.Cut(target, " ")
		body := ""
		if method == "PUT" {
			body = emptyIndex
		}
		w := f.send(method, path, body, "Content-Type", oci.MediaTypeIndex)
		if got, want := w.Header().Get("WWW-Authenticate"), `Bearer realm="https://tide.example/token",scope="`+want+`"`; w.Code != 401 || got != want {
			t.Errorf("%s: got %d %q, want 401 %q", target, w.Code, got, want)
		}
	}
}

// TestRightsWithheldFromAMirror: a mirror's client that is refused would ask the origin, so whoever is known and may not gets a tombstone;
// whoever is not known has to show who he is first.
func TestRightsWithheldFromAMirror(t *testing.T) {
	f := newFixture(t)
	withDock(f)
	if w := f.do("HEAD", "/v2/library/other/manifests/v1?ns=docker.io", as("reader")...); w.Code != 200 ||
		w.Header().Get("Docker-Content-Digest") != oci.FromBytes([]byte(errorBody("DENIED", "not yours"))).String() {
		t.Errorf("known: got %d %v", w.Code, w.Header())
	}
	if w := f.do("HEAD", "/v2/library/other/manifests/v1?ns=docker.io"); w.Code != 401 {
		t.Errorf("not known: got %d, want 401", w.Code)
	}
}

func TestHostedLists(t *testing.T) {
	f := newFixture(t)
	d := withDock(f)
	for _, tag := range []string{"v1", "v2", "v3"} {
		d.pushed(f, web, tag, tag)
	}
	d.serve(web, "v2")
	d.pushed(f, api, "v1", "other")
	for _, tt := range []struct {
		law, who, target string
		want             int
		wantBody         string
		wantLink         string
	}{
		{"all tags for whoever pushes", "ci", "/v2/apps/web/tags/list", 200, `{"name":"apps/web","tags":["v1","v2","v3"]}`, ""},
		{"the first page of them", "ci", "/v2/apps/web/tags/list?n=2", 200, `{"name":"apps/web","tags":["v1","v2"]}`, `</v2/apps/web/tags/list?last=v2&n=2>; rel="next"`},
		{"the last page of them", "ci", "/v2/apps/web/tags/list?n=2&last=v2", 200, `{"name":"apps/web","tags":["v3"]}`, ""},
		{"admitted tags for others", "reader", "/v2/apps/web/tags/list", 200, `{"name":"apps/web","tags":["v2"]}`, ""},
		{"no tags of others", "reader", "/v2/apps/api/tags/list", 403, errorBody("DENIED", "not yours"), ""},
		{"no tags for nobody", "", "/v2/apps/web/tags/list", 401, errorBody("UNAUTHORIZED", "who are you"), ""},
		{"all repositories for whoever may pull all", "ci", "/v2/_catalog", 200, `{"repositories":["apps/api","apps/web"]}`, ""},
		{"the first of them", "ci", "/v2/_catalog?n=1", 200, `{"repositories":["apps/api"]}`, `</v2/_catalog?last=apps%2Fapi&n=1>; rel="next"`},
		{"those that follow", "ci", "/v2/_catalog?n=1&last=apps/api", 200, `{"repositories":["apps/web"]}`, ""},
		{"none asked for", "ci", "/v2/_catalog?n=0", 200, `{"repositories":[]}`, ""},
		{"one's own repositories", "reader", "/v2/_catalog", 200, `{"repositories":["apps/web"]}`, ""},
		{"nothing for nobody", "", "/v2/_catalog", 200, `{"repositories":[]}`, ""},
	} {
		w := f.do("GET", tt.target, as(tt.who)...)
		if w.Code != tt.want || w.Body.String() != tt.wantBody || w.Header().Get("Link") != tt.wantLink {
			t.Errorf("%s: got %d %s %q, want %d %s %q", tt.law, w.Code, w.Body, w.Header().Get("Link"), tt.want, tt.wantBody, tt.wantLink)
		}
	}
	d.failures["repositories"] = errInternal
	if w := f.do("GET", "/v2/_catalog", as("ci")...); w.Code != 503 {
		t.Errorf("a failure: got %d, want 503", w.Code)
	}
}

func TestMount(t *testing.T) {
	clean, pending, foreign := oci.FromBytes([]byte("layer of clean")), oci.FromBytes([]byte("layer of pending")), oci.FromBytes([]byte("layer of foreign"))
	for _, tt := range []struct {
		law, who, query string
		want            int
		wantCalls       []string
	}{
		{"what is admitted", "ci", "mount=" + clean.String() + "&from=apps/api", 201, []string{"mount apps/web@" + clean.String() + " from apps/api"}},
		{"what an upstream's image holds", "ci", "mount=" + foreign.String() + "&from=docker.io/library/app", 201,
			[]string{"mount apps/web@" + foreign.String() + " from docker.io/library/app"}},
		{"what is pending", "ci", "mount=" + pending.String() + "&from=apps/api", 202, nil},
		{"what is not there", "ci", "mount=" + oci.FromBytes(nil).String() + "&from=apps/api", 202, nil},
		{"from nowhere", "ci", "mount=" + clean.String(), 202, nil},
		{"from where the caller may not pull", "narrow", "mount=" + clean.String() + "&from=apps/api", 202, nil},
		{"from an upstream nobody configured", "ci", "mount=" + clean.String() + "&from=evil.example/app", 202, nil},
	} {
		t.Run(tt.law, func(t *testing.T) {
			f := newFixture(t)
			d := withDock(f)
			f.door.rights["user:narrow apps/web"] = []access.Action{access.Pull, access.Push}
			f.allow(d.pushed(f, api, "v1", "clean"), f.image(app, "v1", "foreign"))
			d.pushed(f, api, "v2", "pending")
			w := f.do("POST", "/v2/apps/web/blobs/uploads/?"+tt.query, as(tt.who)...)
			if diff := cmp.Diff(tt.wantCalls, d.calls); w.Code != tt.want || diff != "" {
				t.Errorf("got %d %s, want %d (-want +got):\n%s", w.Code, w.Body, tt.want, diff)
			}
			location := w.Header().Get("Location")
			if want := map[int]string{201: "/v2/apps/web/blobs/sha256:", 202: "/v2/apps/web/blobs/uploads/s0"}[tt.want]; !strings.HasPrefix(location, want) {
				t.Errorf("Location: got %q, want %q", location, want)
			}
		})
	}
}

func TestDelete(t *testing.T) {
	d0 := oci.FromBytes([]byte("some"))
	for _, tt := range []struct {
		law, who, target string
		fails            error
		want             int
		wantCall         string
	}{
		{"a tag", "ci", "manifests/v1", nil, 202, "delete apps/web:v1 by user:ci"},
		{"a manifest", "ci", "manifests/" + d0.String(), nil, 202, "delete apps/web@" + d0.String() + " by user:ci"},
		{"a blob", "ci", "blobs/" + d0.String(), nil, 202, "delete blob apps/web@" + d0.String()},
		{"a tag that is not there", "ci", "manifests/v1", oci.ErrNotFound, 404, "delete apps/web:v1 by user:ci"},
		{"a blob that is not there", "ci", "blobs/" + d0.String(), oci.ErrBlobUnknown, 404, "delete blob apps/web@" + d0.String()},
		{"a tag that must stay", "ci", "manifests/v1", &oci.Error{Code: oci.CodeDenied, Message: "it is immutable"}, 403, "delete apps/web:v1 by user:ci"},
		{"a failure", "ci", "manifests/v1", errInternal, 503, "delete apps/web:v1 by user:ci"},
		{"whoever signs does not delete", "signer", "manifests/v1", nil, 403, ""},
		{"nor does whoever pulls", "reader", "blobs/" + d0.String(), nil, 403, ""},
		{"nor does nobody", "", "manifests/v1", nil, 401, ""},
	} {
		t.Run(tt.law, func(t *testing.T) {
			f := newFixture(t)
			d := withDock(f)
			d.failures[tt.wantCall] = tt.fails
			w := f.do("DELETE", "/v2/apps/web/"+tt.target, as(tt.who)...)
			if got := strings.Join(d.calls, "; "); w.Code != tt.want || got != tt.wantCall {
				t.Errorf("got %d %s after %q, want %d after %q", w.Code, w.Body, got, tt.want, tt.wantCall)
			}
			recorded := len(f.door.allowed) == 1 && strings.Contains(f.door.allowed[0], " delete apps/web")
			if recorded != (tt.who != "") { // who shows nothing is asked who he is, which is no attempt yet
				t.Errorf("on record: %q", f.door.allowed)
			}
		})
	}
	t.Run("what cannot be recorded is not done", func(t *testing.T) {
		f := newFixture(t)
		d := withDock(f)
		f.door.fails = &oci.Error{Code: oci.CodeUnavailable, Message: "it cannot be recorded"}
		if w := f.do("DELETE", "/v2/apps/web/manifests/v1", as("ci")...); w.Code != 503 || len(d.calls) > 0 {
			t.Errorf("got %d, and did %v", w.Code, d.calls)
		}
	})
}

func TestReferrersPages(t *testing.T) {
	f := newFixture(t)
	for i := range maxReferrersPage + 3 {
		f.referrers = append(f.referrers, oci.Descriptor{MediaType: oci.MediaTypeImage, ArtifactType: "a/b", Digest: oci.FromBytes([]byte{byte(i), byte(i >> 8)}), Size: 1})
	}
	f.referrers[7].ArtifactType = "other/type"
	var got []oci.Digest
	pages := 0
	target := "/v2/docker.io/library/app/referrers/" + oci.FromBytes(nil).String() + "?artifactType=a/b"
	for ; target != ""; pages++ {
		w := f.do("GET", target)
		var index struct{ Manifests []oci.Descriptor }
		decode(t, w.Body.Bytes(), &index)
		for _, d := range index.Manifests {
			got = append(got, d.Digest)
		}
		target, _, _ = strings.Cut(strings.TrimPrefix(w.Header().Get("Link"), "<"), ">")
	}
	var want []oci.Digest
	for i, d := range f.referrers {
		if i != 7 {
			want = append(want, d.Digest)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || pages != 2 {
		t.Errorf("%d pages (-want +got):\n%s", pages, diff)
	}
}

// TestAPageOfReferrersIsNoLargerThanAnIndexMayBe: it is written by whoever signs, and clients read no more of one.
func TestAPageOfReferrersIsNoLargerThanAnIndexMayBe(t *testing.T) {
	f := newFixture(t)
	const each = 60 << 10
	for i := range 150 {
		f.referrers = append(f.referrers, oci.Descriptor{
			MediaType: oci.MediaTypeImage, Digest: oci.FromBytes([]byte{byte(i)}), Size: 1, Annotations: map[string]string{"a": strings.Repeat("<", each/6)},
		})
	}
	f.referrers[20].Annotations["a"] = strings.Repeat("<", oci.MaxManifestBytes/6) // alone more than fits
	got, pages := 0, 0
	for target := "/v2/docker.io/library/app/referrers/" + oci.FromBytes(nil).String(); target != ""; pages++ {
		w := f.do("GET", target)
		var index struct{ Manifests []oci.Descriptor }
		decode(t, w.Body.Bytes(), &index)
		got += len(index.Manifests)
		if w.Body.Len() > oci.MaxManifestBytes && len(index.Manifests) > 1 || len(index.Manifests) == 0 {
			t.Errorf("page %d has %d referrers in %d bytes, want at most %d", pages, len(index.Manifests), w.Body.Len(), oci.MaxManifestBytes)
		}
		target, _, _ = strings.Cut(strings.TrimPrefix(w.Header().Get("Link"), "<"), ">")
	}
	if got != len(f.referrers) || pages != 4 {
		t.Errorf("got %d referrers on %d pages, want %d on 4", got, pages, len(f.referrers))
	}
}

func TestHostedIndexChild(t *testing.T) {
	f := newFixture(t)
	d := withDock(f)
	child := d.pushed(f, web, "", "child")
	f.verdicts[child] = gate.Verdict{Decision: gate.Allow, Repository: web, Digest: child.Digest}
	if w := f.do("GET", "/v2/apps/web/manifests/"+child.Digest.String(), as("reader")...); w.Code != 200 {
		t.Errorf("got %d %s, want 200", w.Code, w.Body)
	}
}
