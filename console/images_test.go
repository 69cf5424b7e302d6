package console_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/oci"
)

// named returns what is listed as repository and minutes before noon.
func named(list console.ImageList) (names []string) {
	for _, s := range list.Images {
		names = append(names, fmt.Sprintf("%s %d", s.Repository, int(noon.Sub(s.JudgedAt).Minutes())))
	}
	return names
}

func TestListOfImages(t *testing.T) {
	o := console.Options{Images: shelves{app.Path: 2, "apps/web": 3, "apps/api": 1}}
	for _, tt := range []struct {
		law, query string
		want       []string
		more       bool
	}{
		{"by repository, the one judged last first", "", []string{"apps/api 0", "apps/web 0", "apps/web 1", "apps/web 2", app.String() + " 0", app.String() + " 1"}, false},
		{"those a pattern matches", "?repository=apps/*", []string{"apps/api 0", "apps/web 0", "apps/web 1", "apps/web 2"}, false},
		{"those with a part of a name, in whatever case", "?q=WEB", []string{"apps/web 0", "apps/web 1", "apps/web 2"}, false},
		{"those with a verdict", "?decision=allow", []string{"apps/web 1", app.String() + " 1"}, false},
		{"all that together", "?decision=deny&q=acme&repository=registry.example:5000/**", []string{app.String() + " 0"}, false},
		{"as many as asked for", "?n=2", []string{"apps/api 0", "apps/web 0"}, true},
		{"up to the end of a repository", "?n=4", []string{"apps/api 0", "apps/web 0", "apps/web 1", "apps/web 2"}, true},
		{"exactly all", "?n=6", []string{"apps/api 0", "apps/web 0", "apps/web 1", "apps/web 2", app.String() + " 0", app.String() + " 1"}, false},
		{"none", "?q=nothing", nil, false},
	} {
		got := getJSON[console.ImageList](t, o, "/api/v1/images"+tt.query)
		if diff := cmp.Diff(named(got), tt.want); diff != "" || got.Images == nil || (got.Next != "") != tt.more {
			t.Errorf("%s: next %q (-got +want):\n%s", tt.law, got.Next, diff)
		}
	}
	for law, query := range map[string]string{
		"no number": "?n=x", "too few": "?n=0", "too many": "?n=501", "a verdict that is none": "?decision=maybe", "a pattern that is none": "?repository=[",
		"a place that is none": "?after=x", "a place without an image": "?after=1.x", "a place without a time": "?after=x.a@b",
	} {
		if w := get(t, o, "/api/v1/images"+query); w.Code != http.StatusBadRequest {
			t.Errorf("%s: got %d: %s", law, w.Code, w.Body)
		}
	}
	t.Run("without anybody who knows there is no list", func(t *testing.T) {
		for _, path := range []string{"/api/v1/images", "/images"} {
			if w := get(t, console.Options{}, path); w.Code == http.StatusOK {
				t.Errorf("%s: got %d", path, w.Code)
			}
		}
	})
	t.Run("tags are told of the images they stand for", func(t *testing.T) {
		got := getJSON[console.ImageList](t, console.Options{Images: o.Images, Trail: seen{}}, "/api/v1/images?q=acme")
		if len(got.Images[0].Tags) != 10 || got.Images[0].Tags[0] != "t0000" || got.Images[1].Tags != nil {
			t.Errorf("got %+v", got.Images)
		}
	})
}

func TestPagesOfImagesAreAllImages(t *testing.T) {
	all := shelves{app.Path: 5, "apps/empty": 0}
	for i := range 450 {
		all[fmt.Sprintf("bulk/%03d", i)] = i % 3
	}
	whole := 0
	for _, n := range all {
		whole += n
	}
	for law, tt := range map[string]struct {
		query string
		want  int
	}{
		"few at a time":             {"n=7", whole},
		"many at a time":            {"n=500", whole},
		"where most repositories":   {"n=500&q=bulk", whole - 5},
		"have nothing to show":      {"n=3&decision=allow", 150 + 2},
		"and where none has at all": {"n=3&q=0&decision=allow&repository=bulk/00*", 3},
	} {
		t.Run(law, func(t *testing.T) {
			seen := map[string]bool{}
			var names []string
			after := ""
			for pages := 0; ; pages++ {
				got := getJSON[console.ImageList](t, console.Options{Images: all}, "/api/v1/images?"+tt.query+"&after="+url.QueryEscape(after))
				names = append(names, named(got)...)
				for _, s := range got.Images {
					seen[s.Reference()] = true
				}
				if after = got.Next; after == "" {
					break
				}
				if pages > 200 {
					t.Fatal("it does not end")
				}
			}
			if len(names) != tt.want || len(seen) != tt.want {
				t.Errorf("got %d, %d of them different, want %d", len(names), len(seen), tt.want)
			}
		})
	}
}

// countingShelves counts the repositories that are looked into.
type countingShelves struct {
	shelves
	looked *int
}

func (s countingShelves) Standings(ctx context.Context, repo oci.Repository) ([]console.Standing, error) {
	*s.looked++
	return s.shelves.Standings(ctx, repo)
}

func TestAListLooksIntoSoManyRepositories(t *testing.T) {
	all, looked := shelves{}, 0
	for i := range 1000 {
		all[fmt.Sprintf("bulk/%03d", i)] = 0
	}
	got := getJSON[console.ImageList](t, console.Options{Images: countingShelves{all, &looked}}, "/api/v1/images")
	if looked != 200 || got.Next == "" || len(got.Images) != 0 {
		t.Errorf("it looked into %d, next %q", looked, got.Next)
	}
}

// lost is a ledger that cannot be read.
type lost struct{ shelves }

func (lost) Standings(context.Context, oci.Repository) ([]console.Standing, error) {
	return nil, errors.New("/var/lib: gone")
}

func TestListsAreForReviewers(t *testing.T) {
	images := shelves{app.Path: 1, "apps/web": 1}
	for _, tt := range []struct {
		user string
		want int
		see  []string
	}{
		{"sam", 200, []string{app.String() + " 0"}},
		{"kim", 200, nil},
		{"", 401, nil},
	} {
		for _, path := range []string{"/api/v1/images", "/images", "/recalls"} {
			v := &reviewers{}
			w := send(newConsole(console.Options{Access: allows{v}, Images: images, Trail: seen{}}), tt.user, "GET", path, "")
			if w.Code != tt.want || strings.Contains(w.Body.String(), "apps/web") || strings.Contains(w.Body.String(), app.Path) != (tt.see != nil) {
				t.Errorf("%q at %s: got %d: %.300s", tt.user, path, w.Code, w.Body)
			}
		}
	}
	if w := get(t, console.Options{Images: lost{images}}, "/api/v1/images"); w.Code != 500 || strings.Contains(w.Body.String(), "/var") {
		t.Errorf("a ledger that cannot be read: got %d %s", w.Code, w.Body)
	}
}

func TestPageOfImages(t *testing.T) {
	o := console.Options{Images: shelves{app.Path: 3}, Trail: seen{}}
	w := get(t, o, "/images?q="+url.QueryEscape(`acme"><script>`)+"&decision=deny")
	if strings.Contains(w.Body.String(), "<script>") || !strings.Contains(w.Body.String(), "Nothing that fits") {
		t.Errorf("what was asked for is not text: %s", w.Body)
	}
	body := get(t, o, "/images?n=2&q=acme").Body.String()
	for _, want := range []string{`href="/images/` + app.String() + "@" + digest.String(), `href="/quarantine/` + app.String(), "Those that follow", "t0000", `aria-current="page">Images`} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not show %q:\n%s", want, body)
		}
	}
	t.Run("a form may lead here, from the pages that have one", func(t *testing.T) {
		for path, want := range map[string]string{"/images": "form-action 'self'", "/": "form-action 'none'", "/api/v1/images": "form-action 'none'"} {
			policy := get(t, o, path).Header().Get("Content-Security-Policy")
			if !strings.Contains(policy, want) || !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") {
				t.Errorf("%s: got %s", path, policy)
			}
		}
	})
}

func TestNavigationLeadsToWhatThereIs(t *testing.T) {
	for law, tt := range map[string]struct {
		options console.Options
		want    []string
	}{
		"nothing but images by name": {console.Options{}, nil},
		"some":                       {console.Options{Images: shelves{}, Advisories: advisoryFacts}, []string{"/images", "/advisories"}},
		"everything":                 {wholeOptions(t), []string{"/images", "/quarantine", "/waivers", "/recalls", "/advisories", "/audit"}},
	} {
		t.Run(law, func(t *testing.T) {
			body := get(t, tt.options, "/").Body.String()
			for _, path := range []string{"/images", "/quarantine", "/waivers", "/recalls", "/advisories", "/audit"} {
				if want := slices.Contains(tt.want, path); strings.Contains(body, `<a href="`+path+`">`) != want {
					t.Errorf("a link to %s: want %t", path, want)
				}
				if w := get(t, tt.options, path); (w.Code == 200) != slices.Contains(tt.want, path) {
					t.Errorf("%s: got %d", path, w.Code)
				}
			}
		})
	}
}

func TestPagesHaveTheirBounds(t *testing.T) {
	o := wholeOptions(t)
	body := get(t, o, "/images/"+app.String()+":1.0").Body.String()
	if n := strings.Count(body, `<span class="short">CVE-2026-1`); n != 199 { // and one that is worse
		t.Errorf("got %d findings", n)
	}
	first := strings.Index(body, "<h2>Findings</h2>")
	if !strings.Contains(body[first:first+400], "CVE-2026-0001") || !strings.Contains(body, "The worst 200 of 301") {
		t.Error("the worst does not come first, or nobody is told of the others")
	}
	for _, want := range []string{"Attestations", "predicate.b == 2", "holds", "component_not_present", "Waived", "Excused", "vendor states not_affected on 2026-11-22", "root-user", "Withdrawn 2026-11-22", "is stated to others", older.String(), "Offered, and refused"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not show %q", want)
		}
	}
}

func TestPageOfAdvisories(t *testing.T) {
	facts := func(change map[string]any) console.Options {
		return console.Options{Advisories: func(ctx context.Context) (any, error) {
			all, err := advisoryFacts(ctx)
			if known, ok := all.(map[string]any); ok {
				for key, value := range change {
					known[key] = value
				}
			}
			return all, err
		}}
	}
	for law, tt := range map[string]struct {
		options console.Options
		status  int
		want    []string
	}{
		"what is in use, and since when": {facts(nil), 200, []string{"In use", "built 2 hours ago", "counts until 2026-11-22", "signature by db", "mirror.example/db:2"}},
		"what counts at any age":         {facts(map[string]any{"until": nil, "age_seconds": 400_000}), 200, []string{"counts at any age", "4 days ago"}},
		"what is too old":                {facts(map[string]any{"stale": true, "age_seconds": 60}), 200, []string{"Too old to count"}},
		"nothing":                        {console.Options{Advisories: func(context.Context) (any, error) { return struct{}{}, nil }}, 200, []string{"There is none"}},
		"nobody knows":                   {console.Options{Advisories: func(context.Context) (any, error) { return nil, errors.New("/var: gone") }}, 500, []string{"internal error"}},
	} {
		w := get(t, tt.options, "/advisories")
		for _, want := range tt.want {
			if !strings.Contains(w.Body.String(), want) || w.Code != tt.status || strings.Contains(w.Body.String(), "/var") {
				t.Errorf("%s: got %d without %q:\n%s", law, w.Code, want, w.Body)
			}
		}
	}
}
