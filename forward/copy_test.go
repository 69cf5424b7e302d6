package forward

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

func TestOrder(t *testing.T) {
	for _, tt := range []struct {
		law   string
		build func(h *harbor) Item
		want  []string
	}{
		{
			"an image goes by digest before it goes by tag",
			func(h *harbor) Item { return h.admit(h.image("web", "v1"), "v1") },
			[]string{"blob web/0", "blob web/1", "manifest web", "tag v1 web"},
		}, {
			"a manifest without a tag goes by digest",
			func(h *harbor) Item { return h.admit(h.image("web", "")) },
			[]string{"blob web/0", "blob web/1", "manifest web"},
		}, {
			"children go before their index",
			func(h *harbor) Item {
				return h.admit(h.index("both", "v1", h.image("amd64", ""), h.image("arm64", "")), "v1")
			},
			[]string{
				"blob amd64/0", "blob amd64/1", "manifest amd64", "blob arm64/0", "blob arm64/1", "manifest arm64", "manifest both", "tag v1 both",
			},
		}, {
			"evidence goes between a manifest and its tag, evidence of evidence too",
			func(h *harbor) Item {
				web := h.image("web", "v1")
				sbom := h.referrer("sbom", web)
				h.referrer("signature of sbom", sbom)
				h.image("sig", tagOf(web.Digest)+".sig")
				return h.admit(web, "v1")
			},
			[]string{
				"blob web/0", "blob web/1", "manifest web", "blob sbom/1", "blob signature of sbom/0", "manifest sbom",
				"blob signature of sbom/1", "manifest signature of sbom",
				"blob sig/0", "blob sig/1", "manifest sig", "tag web.sig sig", "tag v1 web",
			},
		}, {
			"the evidence of a child goes before the index",
			func(h *harbor) Item {
				child := h.image("amd64", "")
				h.image("att", tagOf(child.Digest)+".att")
				return h.admit(h.index("index", "v1", child), "v1")
			},
			[]string{
				"blob amd64/0", "blob amd64/1", "manifest amd64", "blob att/0", "blob att/1", "manifest att", "tag amd64.att att",
				"manifest index", "tag v1 index",
			},
		}, {
			"a child that is listed twice goes once",
			func(h *harbor) Item {
				child := h.image("child", "")
				return h.admit(h.index("index", "", child, child))
			},
			[]string{"blob child/0", "blob child/1", "manifest child", "manifest index"},
		}, {
			"evidence that lists what it is evidence of comes to an end",
			func(h *harbor) Item {
				web := h.image("web", "")
				h.referrers[web.Digest] = append(h.referrers[web.Digest], h.index("about", "", web))
				return h.admit(web)
			},
			[]string{"blob web/0", "blob web/1", "manifest web", "manifest about"},
		}, {
			"evidence that comes later goes as an item of its own",
			func(h *harbor) Item {
				web := h.image("web", "v1")
				tag := tagOf(web.Digest) + ".sig"
				return h.admit(h.image("sig", tag), tag)
			},
			[]string{"blob sig/0", "blob sig/1", "manifest sig", "tag web.sig sig"},
		}, {
			"what a fallback tag lists goes, and neither the list nor the tag",
			func(h *harbor) Item {
				web := h.image("web", "v1")
				sbom := h.referrer("sbom", web)
				gone := oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes([]byte("gone")), Size: 4}
				h.untold[gone.Digest] = oci.ErrNotFound
				return h.admit(h.index("list", tagOf(web.Digest), gone, sbom), tagOf(web.Digest))
			},
			[]string{"blob sbom/0", "blob sbom/1", "manifest sbom"},
		}, {
			"an index under a fallback tag that has another tag goes under that",
			func(h *harbor) Item {
				web := h.image("web", "v1")
				index := h.index("index", tagOf(web.Digest), web)
				h.content.Tag(hostedPath, "v2", index.Digest)
				return h.admit(index, tagOf(web.Digest), "v2")
			},
			[]string{"blob web/0", "blob web/1", "manifest web", "manifest index", "tag v2 index"},
		}, {
			"a tag that stands for something else by now stays as it is",
			func(h *harbor) Item {
				old := h.image("old", "v1")
				h.image("new", "v1")
				h.content.Tag(hostedPath, "v1.0", old.Digest)
				return h.admit(old, "gone", "v1", "v1.0")
			},
			[]string{"blob old/0", "blob old/1", "manifest old", "tag v1.0 old"},
		},
	} {
		t.Run(tt.law, func(t *testing.T) {
			h := newHarbor(t)
			item := tt.build(h)
			q := newQuay(h)
			if _, err := h.forwarder(q).copyItem(t.Context(), item); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, q.log()); diff != "" {
				t.Errorf("what arrived (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]Item{item}, h.done); diff != "" {
				t.Errorf("what is done (-want +got):\n%s", diff)
			}
			for reference := range q.manifests {
				if !strings.HasPrefix(reference, "registry.example/mirror/apps/web ") {
					t.Errorf("it arrived at %s", reference)
				}
			}
		})
	}
}

func TestNotAllowed(t *testing.T) {
	for _, tt := range []struct {
		law         string
		build       func(h *harbor) Item
		wantOutcome Outcome
		want        []string
	}{
		{
			"nothing is sent of an image that is denied",
			func(h *harbor) Item {
				web := h.image("web", "v1")
				h.denied[web.Digest] = true
				return h.admit(web, "v1")
			},
			OutcomeDenied, nil,
		}, {
			"no manifest is sent that came to be denied while its blobs were",
			func(h *harbor) Item {
				web := h.image("web", "v1")
				h.onJudge = func(d oci.Digest, n int) { h.deny(d, n == 2) }
				return h.admit(web, "v1")
			},
			OutcomeDenied, []string{"blob web/0", "blob web/1"},
		}, {
			"no tag is set on what came to be denied once it was there",
			func(h *harbor) Item {
				web := h.image("web", "v1")
				h.onJudge = func(d oci.Digest, n int) { h.deny(d, n == 3) }
				return h.admit(web, "v1")
			},
			OutcomeDenied, []string{"blob web/0", "blob web/1", "manifest web"},
		}, {
			"an index stays as long as one of its children is denied",
			func(h *harbor) Item {
				good, bad := h.image("good", ""), h.image("bad", "")
				h.denied[bad.Digest] = true
				return h.admit(h.index("index", "v1", good, bad), "v1")
			},
			OutcomeDenied, []string{"blob good/0", "blob good/1", "manifest good"},
		}, {
			"a child that was passed over as evidence still keeps its index back",
			func(h *harbor) Item {
				good, bad := h.image("good", ""), h.image("bad", "")
				h.denied[bad.Digest] = true
				h.referrers[good.Digest] = append(h.referrers[good.Digest], bad)
				return h.admit(h.index("index", "v1", good, bad), "v1")
			},
			OutcomeDenied, []string{"blob good/0", "blob good/1", "manifest good"},
		}, {
			"evidence that is denied keeps nothing back",
			func(h *harbor) Item {
				web := h.image("web", "v1")
				h.denied[h.referrer("sbom", web).Digest] = true
				h.denied[h.image("sig", tagOf(web.Digest)+".sig").Digest] = true
				return h.admit(web, "v1")
			},
			OutcomeCopied, []string{"blob web/0", "blob web/1", "manifest web", "tag v1 web"},
		}, {
			"evidence there is no verdict on keeps the tag back",
			func(h *harbor) Item {
				web := h.image("web", "v1")
				h.untold[h.referrer("sbom", web).Digest] = oci.ErrUnavailable
				return h.admit(web, "v1")
			},
			OutcomeUnjudged, []string{"blob web/0", "blob web/1", "manifest web"},
		}, {
			"nothing is sent without a verdict",
			func(h *harbor) Item {
				web := h.image("web", "v1")
				h.untold[web.Digest] = context.DeadlineExceeded
				return h.admit(web, "v1")
			},
			OutcomeUnjudged, nil,
		}, {
			"no manifest is sent whose blobs cannot be read",
			func(h *harbor) Item {
				web := h.image("web", "v1")
				for d, name := range h.names {
					h.broken[d] = name == "web/1"
				}
				return h.admit(web, "v1")
			},
			OutcomeUnreadable, []string{"blob web/0"},
		}, {
			"an item of an upstream's repository is not ours to copy",
			func(h *harbor) Item {
				item := h.admit(h.image("web", "v1"), "v1")
				item.Candidate.Repository.Upstream = "docker.io"
				return item
			},
			OutcomeRefused, nil,
		},
	} {
		t.Run(tt.law, func(t *testing.T) {
			h := newHarbor(t)
			item := tt.build(h)
			q := newQuay(h)
			_, err := h.forwarder(q).copyItem(t.Context(), item)
			if got := outcomeOf(err); got != tt.wantOutcome {
				t.Errorf("got %s (%v), want %s", got, err, tt.wantOutcome)
			}
			if diff := cmp.Diff(tt.want, q.log()); diff != "" && tt.wantOutcome != OutcomeUnreadable {
				t.Errorf("what arrived (-want +got):\n%s", diff)
			}
			for _, what := range q.log() {
				if tt.wantOutcome == OutcomeUnreadable && !strings.HasPrefix(what, "blob ") {
					t.Errorf("%s arrived", what)
				}
			}
			if done := len(h.done) == 1; done != (tt.wantOutcome == OutcomeCopied) {
				t.Errorf("done: got %t", done)
			}
		})
	}
}

// deny makes d denied from now on, if it is to be.
func (h *harbor) deny(d oci.Digest, yes bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.denied[d] = h.denied[d] || yes
}

func TestDestinationOutcome(t *testing.T) {
	coded := func(code oci.Code) error { return &oci.Error{Code: code, Message: "x"} }
	for _, tt := range []struct {
		law  string
		err  error
		want Outcome
	}{
		{"credentials that are not taken", oci.ErrUnauthorized, OutcomeRefused},
		{"a repository that may not be written", coded(oci.CodeDenied), OutcomeRefused},
		{"a repository that is not there", coded(oci.CodeNameUnknown), OutcomeRefused},
		{"a name it does not allow", coded(oci.CodeNameInvalid), OutcomeRefused},
		{"a manifest it does not take", coded(oci.CodeManifestInvalid), OutcomeRefused},
		{"a method it does not have", coded(oci.CodeUnsupported), OutcomeRefused},
		{"a blob it has lost", coded(oci.CodeManifestBlobUnknown), OutcomeUnavailable},
		{"an upload it has lost", coded(oci.CodeBlobUploadUnknown), OutcomeUnavailable},
		{"too many requests", oci.ErrRateLimited, OutcomeLimited},
		{"no answer", oci.ErrUnavailable, OutcomeUnavailable},
		{"an error of its own", coded(oci.CodeUnknown), OutcomeUnavailable},
		{"anything else", errBroken, OutcomeUnavailable},
		{"another digest than it was sent, whatever comes with it", errors.Join(oci.ErrUnavailable, oci.ErrMismatch), OutcomeRefused},
	} {
		if got := destinationOutcome(tt.err); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.law, got, tt.want)
		}
	}
}

func TestTarget(t *testing.T) {
	for _, tt := range []struct {
		to   string
		repo oci.Repository
		want string // empty for a refusal
	}{
		{"registry.example", oci.Repository{Path: "apps/web"}, "registry.example/apps/web"},
		{"registry.example/mirror", oci.Repository{Path: "apps/web"}, "registry.example/mirror/apps/web"},
		{"registry.example:5000/a/b", oci.Repository{Path: "web"}, "registry.example:5000/a/b/web"},
		{"127.0.0.1:5000", oci.Repository{Path: "web"}, "127.0.0.1:5000/web"},
		{"", oci.Repository{Path: "web"}, ""},
		{"/mirror", oci.Repository{Path: "web"}, ""},
		{"registry.example/", oci.Repository{Path: "web"}, ""},
		{"registry.example/mirror/", oci.Repository{Path: "web"}, ""},
		{"https://registry.example/mirror", oci.Repository{Path: "web"}, ""},
		{"mirror", oci.Repository{Path: "web"}, ""},
		{"registry.example/../up", oci.Repository{Path: "web"}, ""},
		{"registry.example/Mirror", oci.Repository{Path: "web"}, ""},
		{"registry.example", oci.Repository{Upstream: "docker.io", Path: "library/web"}, ""},
		{"registry.example/" + strings.Repeat("a", 250), oci.Repository{Path: "web"}, ""},
	} {
		got, err := Target(tt.to, tt.repo)
		if got.String() != tt.want && tt.want != "" || (err == nil) != (tt.want != "") {
			t.Errorf("%s of %s: got %s, %v, want %s", tt.to, tt.repo, got, err, tt.want)
		}
		if err != nil && !errors.Is(err, oci.ErrNameInvalid) {
			t.Errorf("%s of %s: got %v, want that the name is invalid", tt.to, tt.repo, err)
		}
	}
}
