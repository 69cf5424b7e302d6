package console

import (
	"cmp"
	"context"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Images tells what was judged. Implementations are safe for concurrent use.
type Images interface {
	// Repositories returns those of which anything was ever judged, in any order.
	Repositories(ctx context.Context) ([]oci.Repository, error)
	// Standings returns how every image of repo stands that was ever judged, in any order, without tags.
	Standings(ctx context.Context, repo oci.Repository) ([]Standing, error)
}

// Standing is how an image stands by the newest verdict on it.
type Standing struct {
	Repository string        `json:"repository"`
	Digest     oci.Digest    `json:"digest"`
	Decision   gate.Decision `json:"decision"`
	// Quarantined says that it is denied and its bytes are kept for review, Admitted that it was once allowed here.
	Quarantined bool `json:"quarantined"`
	Admitted    bool `json:"admitted"`
	// JudgedAt and Until are those of the verdict, FirstJudgedAt that of the first one there is a record of, all UTC.
	JudgedAt      time.Time `json:"judged_at"`
	Until         time.Time `json:"until"`
	FirstJudgedAt time.Time `json:"first_judged_at"`
	// Tags stood for it when they were last seen, sorted, as many as are told.
	Tags []string `json:"tags,omitempty"`
}

// Reference returns the image as people write it.
func (s Standing) Reference() string { return s.Repository + "@" + s.Digest.String() }

// Bounds of a list of images.
const (
	defaultImages = 50
	maxImages     = 500
	// maxRepositories is how many repositories one answer looks into: each may be a directory that has to be listed.
	maxRepositories = 200
	// maxItemTags is how many tags are told of one image: a build may have one for every commit.
	maxItemTags = 10
)

// ImageList is what the admin API says of images.
type ImageList struct {
	// Images are sorted by repository; of one repository, the one judged last comes first.
	Images []Standing `json:"images"`
	// Next, if not empty, asks for those that follow. A list may be shorter than asked for, or empty, and have one.
	Next string `json:"next,omitempty"`
}

func (c *Console) addImages() {
	if c.o.Images == nil {
		return
	}
	c.mux.HandleFunc("GET /api/v1/images", c.answering(func(r *http.Request) (any, error) { return c.images(r) }))
	c.mux.HandleFunc("GET /images", c.serveImagesPage)
}

// imageFilter is which images a list is about.
type imageFilter struct {
	may          func(oci.Repository) bool
	repositories *oci.Pattern // nil for all
	part         string       // of the repository's full name
	decision     string       // "allow" or "deny"; empty for both
	after        place        // the zero place is in front of everything
	n            int
}

// place is where a list of images ended.
type place struct {
	repository string
	judged     int64 // in nanoseconds
	digest     oci.Digest
}

func placeOf(s Standing) place { return place{s.Repository, s.JudgedAt.UnixNano(), s.Digest} }

// behind is the place behind all images of a repository.
func behind(repository string) place { return place{repository: repository, judged: math.MinInt64} }

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.repository, q.repository), cmp.Compare(q.judged, p.judged), cmp.Compare(p.digest, q.digest))
}

// String returns p as the next list is asked for with.
func (p place) String() string {
	return strconv.FormatInt(p.judged, 10) + "." + p.repository + "@" + string(p.digest)
}

func parsePlace(s string) (p place, ok bool) {
	nanos, image, ok := strings.Cut(s, ".")
	repository, digest, found := strings.Cut(image, "@")
	judged, err := strconv.ParseInt(nanos, 10, 64)
	return place{repository, judged, oci.Digest(digest)}, ok && found && err == nil
}

// imageFilter reads what list r asks for.
func (c *Console) imageFilter(r *http.Request) (f imageFilter, err error) {
	if f.may, err = c.reviewed(r); err != nil {
		return f, err
	}
	q := r.URL.Query()
	f.part, f.decision, f.n = strings.ToLower(q.Get("q")), q.Get("decision"), defaultImages
	if f.decision != "" && f.decision != gate.Allow.String() && f.decision != gate.Deny.String() {
		return f, invalid("decision is neither allow nor deny")
	}
	if s := q.Get("repository"); s != "" {
		p, err := oci.ParseFullPattern(s)
		if err != nil {
			return f, invalid("repository: %.300s", err)
		}
		f.repositories = &p
	}
	if s := q.Get("n"); s != "" {
		if f.n, err = strconv.Atoi(s); err != nil || f.n < 1 || f.n > maxImages {
			return f, invalid("n is not a number from 1 to %d", maxImages)
		}
	}
	if s := q.Get("after"); s != "" {
		var ok bool
		if f.after, ok = parsePlace(s); !ok {
			return f, invalid("after is not what a list said was next")
		}
	}
	return f, nil
}

// reviewed returns what tells which repositories whoever sends r may see. Whoever shows nothing is asked to, if there are others.
func (c *Console) reviewed(r *http.Request) (func(oci.Repository) bool, error) {
	if c.o.Access == nil {
		return func(oci.Repository) bool { return true }, nil
	}
	caller, err := c.o.Access.Identify(r)
	if err != nil {
		return nil, err
	}
	if caller.Anonymous() {
		if err := c.o.Access.Allow(r.Context(), caller, access.Review, oci.Repository{}); err != nil {
			return nil, err
		}
	}
	return func(repo oci.Repository) bool { return c.o.Access.May(caller, access.Review, repo) }, nil
}

// wants reports whether images of repo are asked for that are not in front of where the list begins.
func (f imageFilter) wants(repo oci.Repository) bool {
	name := repo.String()
	return name >= f.after.repository && strings.Contains(name, f.part) && (f.repositories == nil || f.repositories.Match(name)) && f.may(repo)
}

func (c *Console) images(r *http.Request) (ImageList, error) {
	f, err := c.imageFilter(r)
	if err != nil {
		return ImageList{}, err
	}
	repositories, err := c.o.Images.Repositories(r.Context())
	if err != nil {
		return ImageList{}, err
	}
	repositories = slices.DeleteFunc(slices.Clone(repositories), func(repo oci.Repository) bool { return !f.wants(repo) })
	slices.SortFunc(repositories, func(a, b oci.Repository) int { return strings.Compare(a.String(), b.String()) })
	list := ImageList{Images: []Standing{}}
	for i, repo := range repositories {
		some, err := c.imagesOf(r.Context(), repo, f)
		if err != nil {
			return ImageList{}, err
		}
		room := f.n - len(list.Images)
		list.Images = append(list.Images, some[:min(room, len(some))]...)
		switch last := i == len(repositories)-1; {
		case len(some) > room || len(some) == room && !last:
			list.Next = placeOf(list.Images[f.n-1]).String()
			return list, nil
		case i+1 == maxRepositories && !last:
			list.Next = behind(repo.String()).String()
			return list, nil
		}
	}
	return list, nil
}

// imagesOf returns the images of repo that f asks for, sorted, at most one more than fit.
func (c *Console) imagesOf(ctx context.Context, repo oci.Repository, f imageFilter) ([]Standing, error) {
	all, err := c.o.Images.Standings(ctx, repo)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(s Standing) bool {
		return f.decision != "" && s.Decision.String() != f.decision || placeOf(s).compare(f.after) <= 0
	})
	slices.SortFunc(all, func(a, b Standing) int { return placeOf(a).compare(placeOf(b)) })
	all = all[:min(len(all), f.n+1)]
	if len(all) == 0 || c.o.Trail == nil {
		return all, nil
	}
	tags, err := c.o.Trail.Tags(ctx, repo)
	if err != nil {
		return nil, err
	}
	for i := range all {
		for _, t := range tags {
			if t.Digest == all[i].Digest && len(all[i].Tags) < maxItemTags {
				all[i].Tags = append(all[i].Tags, t.Tag)
			}
		}
	}
	return all, nil
}

// imagesPage is what the page of the list shows: a part of it, and what was asked for.
type imagesPage struct {
	ImageList
	Part, Repository, Decision string
}

func (c *Console) serveImagesPage(w http.ResponseWriter, r *http.Request) {
	list, err := c.images(r)
	q := r.URL.Query()
	c.withForm(w)
	c.writePage(w, r, "images.html", imagesPage{list, q.Get("q"), q.Get("repository"), q.Get("decision")}, err)
}
