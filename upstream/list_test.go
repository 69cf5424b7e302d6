package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

// referrer returns the n-th descriptor of a list.
func referrer(n int) oci.Descriptor {
	return oci.Descriptor{
		MediaType: oci.MediaTypeImage, ArtifactType: oci.MediaTypeSigstoreBundle,
		Digest: oci.FromBytes([]byte(strconv.Itoa(n))), Size: int64(n),
	}
}

func sendReferrers(w http.ResponseWriter, found ...oci.Descriptor) {
	w.Header().Set("Content-Type", oci.MediaTypeIndex)
	_ = json.NewEncoder(w).Encode(map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeIndex, "manifests": found})
}

func page(r *http.Request) int {
	n, _ := strconv.Atoi(r.URL.Query().Get("page"))
	return n
}

// pages answers with one referrer a page, and links to the next until there are no more than n.
func pages(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if next := page(r) + 1; next < n {
			w.Header().Set("Link", fmt.Sprintf(`<%s?page=%d>; rel="next"`, r.URL.Path, next))
		}
		sendReferrers(w, referrer(page(r)))
	}
}

func TestReferrers(t *testing.T) {
	unusable := []oci.Descriptor{
		{MediaType: oci.MediaTypeImage, Digest: "sha512:00", Size: 1},
		{MediaType: oci.MediaTypeImage, Digest: "../../x", Size: 1},
		{MediaType: oci.MediaTypeImage, Digest: referrer(0).Digest, Size: -1},
	}
	link := func(value string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", value)
			sendReferrers(w, referrer(page(r)))
		}
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	send := func(contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			_, _ = w.Write([]byte(body))
		}
	}
	many := func(n int) (found []oci.Descriptor) {
		for i := range n {
			found = append(found, referrer(i))
		}
		return found
	}
	tests := map[string]struct {
		handler  http.HandlerFunc
		want     []oci.Descriptor
		wantErr  error
		requests int
	}{
		"none":                        {func(w http.ResponseWriter, _ *http.Request) { sendReferrers(w) }, nil, nil, 1},
		"one page":                    {pages(1), many(1), nil, 1},
		"three pages":                 {pages(3), many(3), nil, 3},
		"as many pages as are read":   {pages(maxPages), many(maxPages), nil, maxPages},
		"one page more":               {pages(maxPages + 1), nil, oci.ErrTooLarge, maxPages},
		"pages without end":           {pages(1 << 30), nil, oci.ErrTooLarge, maxPages},
		"some that cannot be checked": {func(w http.ResponseWriter, _ *http.Request) { sendReferrers(w, append(unusable, referrer(1))...) }, []oci.Descriptor{referrer(1)}, nil, 1},
		"on at another host":          {link(`<https://evil.test/v2/team/app/referrers/x>; rel="next"`), nil, errLeak, 1},
		"on in another repository":    {link(`</v2/other/app/referrers/x>; rel="next"`), nil, errLeak, 1},
		"on out of the repository":    {link(`</v2/team/app/../../admin>; rel="next"`), nil, errLeak, 1},
		"on behind encoded dots":      {link(`</v2/team/app/%2e%2e/%2e%2e/admin>; rel="next"`), nil, errLeak, 1},
		"on at no URL":                {link(`<https://%zz>; rel="next"`), nil, errLeak, 1},
		"a link to the previous page": {link(`</v2/team/app/referrers/x>; rel="prev"`), many(1), nil, 1},
		"no such API":                 {status(http.StatusNotFound), nil, nil, 1},
		"a page for people":           {send("text/html", "<html>"), nil, nil, 1},
		"another kind of manifest":    {send(oci.MediaTypeImage, image), nil, nil, 1},
		"an index that is none":       {send(oci.MediaTypeIndex, "<html>"), nil, oci.ErrUnavailable, 1},
		"an index that is too large":  {send(oci.MediaTypeIndex, strings.Repeat(" ", maxPageBytes+1)), nil, oci.ErrTooLarge, 1},
		"not for us":                  {status(http.StatusUnauthorized), nil, oci.ErrUnauthorized, 1},
		"limited":                     {status(http.StatusTooManyRequests), nil, oci.ErrRateLimited, 1},
		"down":                        {status(http.StatusInternalServerError), nil, oci.ErrUnavailable, 1},
		"not allowed":                 {status(http.StatusMethodNotAllowed), nil, oci.ErrUnavailable, 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, lists(tc.handler, http.NotFound))
			subject := imageDescriptor.Digest
			got, err := open(t, Options{}, configFor(s)).Referrers(t.Context(), app, subject)
			if !errors.Is(err, tc.wantErr) {
				t.Errorf("got %v, want %v", err, tc.wantErr)
			}
			if diff := cmp.Diff(got, tc.want); diff != "" {
				t.Errorf("got, want:\n%s", diff)
			}
			asked := slices.DeleteFunc(s.asked(), func(r string) bool { return strings.Contains(r, "/manifests/") })
			if diff := cmp.Diff(asked, repeated("GET /v2/team/app/referrers/"+subject.String(), tc.requests)); diff != "" {
				t.Errorf("got, want:\n%s", diff)
			}
		})
	}
}

// lists answers the referrers API by one handler, and the fallback tag by another.
func lists(api, tag http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/referrers/") {
			api(w, r)
			return
		}
		tag(w, r)
	}
}

// What refers to an image is whatever either place lists. One that has nothing, or junk anybody could have pushed, takes nothing from
// the other; one that cannot be looked into leaves nothing to say.
func TestReferrersAreThoseOfBothPlaces(t *testing.T) {
	const tag = "GET " + appManifest + "sha256-"
	api := "GET /v2/team/app/referrers/" + imageDescriptor.Digest.String()
	send := func(found ...oci.Descriptor) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { sendReferrers(w, found...) }
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	body := func(contentType, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			_, _ = w.Write([]byte(text))
		}
	}
	untyped := referrer(1)
	untyped.ArtifactType = ""
	tests := map[string]struct {
		api, tag http.HandlerFunc
		want     []oci.Descriptor
		wantErr  error
	}{
		"each lists others":           {send(referrer(1)), send(referrer(2), referrer(3)), []oci.Descriptor{referrer(1), referrer(2), referrer(3)}, nil},
		"both list the same":          {send(referrer(2), referrer(1)), send(referrer(1), referrer(2)), []oci.Descriptor{referrer(2), referrer(1)}, nil},
		"the API's word comes first":  {send(referrer(1)), send(untyped), []oci.Descriptor{referrer(1)}, nil},
		"one is listed twice":         {send(), send(referrer(1), referrer(1)), []oci.Descriptor{referrer(1)}, nil},
		"the API has several pages":   {pages(3), send(referrer(2), referrer(7)), []oci.Descriptor{referrer(0), referrer(1), referrer(2), referrer(7)}, nil},
		"no API":                      {http.NotFound, send(referrer(1)), []oci.Descriptor{referrer(1)}, nil},
		"no tag":                      {send(referrer(1)), http.NotFound, []oci.Descriptor{referrer(1)}, nil},
		"neither":                     {http.NotFound, http.NotFound, nil, nil},
		"the tag is an image":         {send(referrer(1)), body(oci.MediaTypeImage, image), []oci.Descriptor{referrer(1)}, nil},
		"the tag is a Docker list":    {send(referrer(1)), body(oci.MediaTypeDockerIndex, `{}`), []oci.Descriptor{referrer(1)}, nil},
		"the tag is no JSON":          {send(referrer(1)), body(oci.MediaTypeIndex, "<html>"), []oci.Descriptor{referrer(1)}, nil},
		"the tag is too large":        {send(referrer(1)), body(oci.MediaTypeIndex, strings.Repeat(" ", oci.MaxManifestBytes+1)), []oci.Descriptor{referrer(1)}, nil},
		"the tag lists what is none":  {send(), send(oci.Descriptor{Digest: "sha512:00"}, referrer(1)), []oci.Descriptor{referrer(1)}, nil},
		"the tag is not for us":       {send(referrer(1)), status(http.StatusForbidden), nil, oci.ErrUnauthorized},
		"the tag is limited":          {send(referrer(1)), status(http.StatusTooManyRequests), nil, oci.ErrRateLimited},
		"the tag is out of order":     {send(referrer(1)), status(http.StatusInternalServerError), nil, oci.ErrUnavailable},
		"the API is out of order":     {status(http.StatusInternalServerError), send(referrer(1)), nil, oci.ErrUnavailable},
		"the API is not for us":       {status(http.StatusUnauthorized), send(referrer(1)), nil, oci.ErrUnauthorized},
		"the API sends other content": {body(oci.MediaTypeIndex, "<html>"), send(referrer(1)), nil, oci.ErrUnavailable},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, lists(tc.api, tc.tag))
			got, err := open(t, Options{}, configFor(s)).Referrers(t.Context(), app, imageDescriptor.Digest)
			if !errors.Is(err, tc.wantErr) {
				t.Errorf("got %v, want %v", err, tc.wantErr)
			}
			if diff := cmp.Diff(got, tc.want); diff != "" {
				t.Errorf("got, want:\n%s", diff)
			}
			for _, r := range s.asked() {
				if r != api && r != tag+imageDescriptor.Digest.Encoded() {
					t.Errorf("got request %s", r)
				}
			}
		})
	}
}

// A list that breaks off in the middle is no list.
func TestReferrersAreWholeOrNone(t *testing.T) {
	for name, end := range map[string]http.HandlerFunc{
		"missing":      http.NotFound,
		"another type": func(w http.ResponseWriter, _ *http.Request) { writeManifest(w, image) },
	} {
		s := serve(t, lists(func(w http.ResponseWriter, r *http.Request) {
			if page(r) == 2 {
				end(w, r)
				return
			}
			pages(5)(w, r)
		}, http.NotFound))
		got, err := open(t, Options{}, configFor(s)).Referrers(t.Context(), app, imageDescriptor.Digest)
		if got != nil || !errors.Is(err, oci.ErrUnavailable) {
			t.Errorf("%s: got %v, %v, want %v alone", name, got, err, oci.ErrUnavailable)
		}
	}
}

func TestTags(t *testing.T) {
	send := func(body, link string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if link != "" {
				w.Header().Set("Link", link)
			}
			_, _ = w.Write([]byte(body))
		}
	}
	tests := map[string]struct {
		handler   http.HandlerFunc
		n         int
		last      string
		want      []string
		wantMore  bool
		wantErr   error
		wantQuery string
	}{
		"all":                   {send(`{"name":"team/app","tags":["b","a"]}`, ""), 0, "", []string{"b", "a"}, false, nil, ""},
		"none":                  {send(`{"tags":null}`, ""), 0, "", []string{}, false, nil, ""},
		"a page":                {send(`{"tags":["b"]}`, `</v2/team/app/tags/list?last=b>; rel="next"`), 1, "a b&c", []string{"b"}, true, nil, "last=a+b%26c&n=1"},
		"more than was asked":   {send(`{"tags":["a","b"]}`, ""), 1, "", []string{"a"}, true, nil, "n=1"},
		"as many as was asked":  {send(`{"tags":["a","b"]}`, ""), 2, "", []string{"a", "b"}, false, nil, "n=2"},
		"all, asked for a part": {send(`{"tags":["a","b","c","d"]}`, ""), 2, "a", []string{"b", "c"}, true, nil, "last=a&n=2"},
		"all, asked for an end": {send(`{"tags":["a","b","c"]}`, ""), 2, "b", []string{"c"}, false, nil, "last=b&n=2"},
		"all, after the last":   {send(`{"tags":["a","b"]}`, ""), 2, "b", []string{}, false, nil, "last=b&n=2"},
		"pages of its own":      {send(`{"tags":["a","b"]}`, `</v2/team/app/tags/list?token=x>; rel="next"`), 2, "b", nil, false, oci.ErrUnavailable, "last=b&n=2"},
		"a negative number":     {send(`{"tags":["a"]}`, ""), -1, "", []string{"a"}, false, nil, ""},
		"what is no tag":        {send(`{"tags":["a","../x","<b>",""]}`, ""), 0, "", []string{"a"}, false, nil, ""},
		"an unknown repository": {func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, 0, "", nil, false, &oci.Error{Code: oci.CodeNameUnknown}, ""},
		"a page for people":     {send(`<html>`, ""), 0, "", nil, false, oci.ErrUnavailable, ""},
		"too large a page":      {send(strings.Repeat(" ", maxPageBytes+1), `</x>; rel="next"`), 0, "", nil, false, oci.ErrTooLarge, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, tc.handler)
			got, more, err := open(t, Options{}, configFor(s)).Tags(t.Context(), app, tc.n, tc.last)
			if !errors.Is(err, tc.wantErr) {
				t.Errorf("got %v, want %v", err, tc.wantErr)
			}
			if diff := cmp.Diff(got, tc.want); diff != "" || more != tc.wantMore {
				t.Errorf("got more %t, want %t; got, want:\n%s", more, tc.wantMore, diff)
			}
			if diff := cmp.Diff(s.asked(), []string{"GET /v2/team/app/tags/list"}); diff != "" {
				t.Errorf("got, want:\n%s", diff)
			}
			if got := s.requests[0].URL.RawQuery; got != tc.wantQuery {
				t.Errorf("got query %q, want %q", got, tc.wantQuery)
			}
		})
	}
}

func TestNextLink(t *testing.T) {
	tests := map[string]struct {
		values []string
		want   string
	}{
		"as the specification has it": {[]string{`</v2/a/tags/list?n=1&last=b>; rel="next"`}, "/v2/a/tags/list?n=1&last=b"},
		"without quotes":              {[]string{`</x>;rel=next`}, "/x"},
		"in upper case":               {[]string{`</x>; REL="NEXT"`}, "/x"},
		"one of several relations":    {[]string{`</x>; rel="prev next"`}, "/x"},
		"one of several links":        {[]string{`</a>; rel="prev", </b>; rel="next"`}, "/b"},
		"one of several headers":      {[]string{`</a>; rel="prev"`, `</b>; rel="next"`}, "/b"},
		"behind a title with a comma": {[]string{`</a>; title="x, <y>; rel=next"; rel="prev", </b>; rel="next"`}, "/b"},
		"the first of two":            {[]string{`</a>; rel="next", </b>; rel="next"`}, "/a"},
		"another relation":            {[]string{`</a>; rel="nextish"`}, ""},
		"another parameter":           {[]string{`</a>; title="next"`}, ""},
		"no brackets":                 {[]string{`/a; rel="next"`}, ""},
		"an open bracket":             {[]string{`</a; rel="next"`}, ""},
		"nothing":                     {nil, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := nextLink(http.Header{"Link": tc.values}); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// Whatever an upstream links to, a list goes on in its own repository at its own host, or not at all.
func FuzzNextPage(f *testing.F) {
	f.Add(`</v2/team/app/referrers/x?page=1>; rel="next"`)
	f.Add(`<//evil.test/v2/team/app/>; rel="next"`)
	f.Add(`<https://registry.test:443/v2/team/app/../x>; rel=next, <x>`)
	f.Fuzz(func(t *testing.T, link string) {
		e := &endpoint{host: "registry.test", origin: parsed(t, "https://registry.test")}
		req := request{repo: "team/app", path: "referrers/x"}
		next, err := e.nextPage(req, http.Header{"Link": {link}})
		if err != nil || next == nil {
			return
		}
		if originOf(next) != "https://registry.test:443" || next.User != nil || !strings.HasPrefix(path.Clean(next.Path), "/v2/team/app/") {
			t.Errorf("got %s", next)
		}
	})
}
