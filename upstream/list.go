package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/tidewaiter/tidewaiter/oci"
)

const (
	// maxPageBytes bounds one page of a list: the specification's bound for manifests, which a page of referrers is.
	maxPageBytes = 4 << 20
	// maxPages bounds the pages of one list of referrers. An image with some thousand signatures is being flooded.
	maxPages = 10
	// maxTagBytes bounds the tag a list goes on from.
	maxTagBytes = 128
)

// Referrers returns the manifests that repo's upstream says refer to subject, each digest once: those its referrers API lists, in
// its order, then those that only the index under the fallback tag lists, where clients write what refers to an image if the registry
// does not (distribution-spec, Referrers Tag Schema). Whether they do, and are what they say they are, only reading them tells. Those
// with a digest we cannot check are left out. Nil means that there are none.
//
// Both places are always looked at, side by side: a registry that came to have the API may have images from before, and some signers
// write the tag whatever the registry can do. That an upstream has no API is not remembered: it would save one request in parallel,
// and a 404 said of one image would hide what is listed of the next.
//
// Only 404, or an answer that is no list, says that a place has nothing. What whoever may push wrote under the tag and is no list
// lists nothing, and does not keep the API's from counting.
//
// Errors: DENIED, [oci.ErrDigestInvalid], [oci.ErrUnauthorized], [oci.ErrRateLimited], [oci.ErrUnavailable], with [oci.ErrTooLarge]
// for more pages than are read. None of them says anything about which referrers there are.
func (rs *Registries) Referrers(ctx context.Context, repo oci.Repository, subject oci.Digest) ([]oci.Descriptor, error) {
	r, err := rs.readable(repo)
	if err != nil {
		return nil, err
	}
	if _, err := oci.ParseDigest(subject.String()); err != nil {
		return nil, err
	}
	var byAPI, byTag []oci.Descriptor
	both, bothCtx := errgroup.WithContext(ctx)
	both.Go(func() (err error) {
		byAPI, err = r.referrersByAPI(bothCtx, repo, subject)
		return err
	})
	both.Go(func() (err error) {
		byTag, err = r.referrersByTag(bothCtx, repo, subject)
		return err
	})
	if err := both.Wait(); err != nil {
		return nil, fmt.Errorf("listing referrers of %s in %s: %w", subject, repo, err)
	}
	return union(byAPI, byTag), nil
}

// union returns the descriptors of lists in their order, the first of those with the same digest.
func union(lists ...[]oci.Descriptor) []oci.Descriptor {
	var all []oci.Descriptor
	seen := map[oci.Digest]bool{}
	for _, d := range slices.Concat(lists...) {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			all = append(all, d)
		}
	}
	return all
}

// fallbackTag returns the tag under which what refers to subject is listed where there is no referrers API.
func fallbackTag(subject oci.Digest) string {
	return oci.EvidenceTag{Subject: subject}.String()
}

// referrersByAPI returns what the referrers API lists; nil if there is none.
func (r *registry) referrersByAPI(ctx context.Context, repo oci.Repository, subject oci.Digest) (found []oci.Descriptor, err error) {
	err = r.ask(ctx, KindReferrers, func(ctx context.Context, e *endpoint) (n int64, err error) {
		found, n, err = e.referrers(ctx, repo, subject)
		return n, err
	})
	if oci.IsMissing(err) {
		return nil, nil
	}
	return found, err
}

// referrersByTag returns what the index under the fallback tag lists; nil if there is none.
func (r *registry) referrersByTag(ctx context.Context, repo oci.Repository, subject oci.Digest) ([]oci.Descriptor, error) {
	var content oci.Content
	err := r.ask(ctx, KindManifest, func(ctx context.Context, e *endpoint) (n int64, err error) {
		content, err = e.getManifest(ctx, repo, fallbackTag(subject), "")
		return int64(len(content.Raw)), err
	})
	switch {
	case oci.IsMissing(err):
		return nil, nil
	case errors.Is(err, oci.ErrTooLarge): // whoever pushed it can have caused that
	case err != nil:
		return nil, err
	case content.MediaType == oci.MediaTypeIndex:
		found, parseErr := parseReferrers(content.Raw)
		if parseErr == nil {
			return found, nil
		}
		err = parseErr
	default:
		err = errors.New("it is not an index")
	}
	r.log.WarnContext(ctx, "a fallback tag lists no referrers", "repo", repo.String(), "tag", fallbackTag(subject), "err", err)
	return nil, nil
}

// referrers asks the referrers API of e, all pages of it. n is how many bytes of content that took.
func (e *endpoint) referrers(ctx context.Context, repo oci.Repository, subject oci.Digest) (found []oci.Descriptor, n int64, err error) {
	req := request{
		kind: KindReferrers, method: http.MethodGet, repo: repo.Path, path: "referrers/" + subject.String(), accept: []string{oci.MediaTypeIndex},
	}
	for page := range maxPages {
		listed, header, size, err := e.referrersPage(ctx, req)
		if page > 0 && oci.IsMissing(err) { // the API is there, and the rest of what it lists is not
			err = refused(e.host, "does not have the next page of a list of referrers", nil)
		}
		if err != nil {
			return nil, n, err
		}
		found, n = append(found, listed...), n+size
		next, err := e.nextPage(req, header)
		if err != nil || next == nil {
			return found, n, err
		}
		req.at = next
	}
	return nil, n, refused(e.host, fmt.Sprintf("lists referrers on more than %d pages", maxPages), oci.ErrTooLarge)
}

// referrersPage reads one page. A page of another type is what servers answer that take the path for something else.
func (e *endpoint) referrersPage(ctx context.Context, req request) (found []oci.Descriptor, header http.Header, n int64, err error) {
	body, header, err := e.get(ctx, req, maxPageBytes)
	if err != nil {
		return nil, nil, 0, err
	}
	if oci.BaseMediaType(header.Get("Content-Type")) != oci.MediaTypeIndex {
		return nil, nil, 0, missing(e.host, KindReferrers)
	}
	if found, err = parseReferrers(body); err != nil {
		return nil, nil, 0, refused(e.host, "sends a list of referrers that is malformed", nil)
	}
	return found, header, int64(len(body)), nil
}

// parseReferrers reads an index that lists referrers and leaves out entries nobody can check, so that they hide no others.
func parseReferrers(index []byte) ([]oci.Descriptor, error) {
	var page struct {
		Manifests []oci.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(index, &page); err != nil {
		return nil, errors.New("it is malformed") // the parser quotes what it cannot read
	}
	var found []oci.Descriptor
	for _, d := range page.Manifests {
		if _, err := oci.ParseDigest(d.Digest.String()); err == nil && d.Size >= 0 {
			found = append(found, d)
		}
	}
	return found, nil
}

// Tags returns one page of the tags repo's upstream lists, in its order, and whether it says that there are more after the last of
// them. At most n are returned, or as many as the upstream likes if n is 0, that come after last, or from the beginning if last is
// empty. An upstream that ignores either is cut to it here.
//
// Errors: DENIED, [oci.ErrTagInvalid], [oci.ErrUnauthorized], [oci.ErrRateLimited], [oci.ErrUnavailable], and code NAME_UNKNOWN.
func (rs *Registries) Tags(ctx context.Context, repo oci.Repository, n int, last string) (tags []string, more bool, err error) {
	r, err := rs.readable(repo)
	if err != nil {
		return nil, false, err
	}
	if len(last) > maxTagBytes {
		return nil, false, fmt.Errorf("tag %.140q: %w", last, oci.ErrTagInvalid)
	}
	req := request{kind: KindTags, method: http.MethodGet, repo: repo.Path, path: "tags/list", accept: []string{"application/json"}, query: url.Values{}}
	if n > 0 {
		req.query.Set("n", strconv.Itoa(n))
	}
	if last != "" {
		req.query.Set("last", last)
	}
	err = r.ask(ctx, KindTags, func(ctx context.Context, e *endpoint) (read int64, err error) {
		tags, more, read, err = e.tags(ctx, req, n, last)
		return read, err
	})
	if err != nil {
		return nil, false, fmt.Errorf("listing tags of %s: %w", repo, err)
	}
	return tags, more, nil
}

// tags asks e for one page. read is how many bytes of content that took.
func (e *endpoint) tags(ctx context.Context, req request, n int, last string) (tags []string, more bool, read int64, err error) {
	body, header, err := e.get(ctx, req, maxPageBytes)
	if err != nil {
		return nil, false, 0, err
	}
	read, more = int64(len(body)), nextLink(header) != ""
	if tags, err = e.parseTags(body); err != nil {
		return nil, false, read, err
	}
	if i := slices.Index(tags, last); i >= 0 { // it begins before where it was asked to go on
		if tags = tags[i+1:]; len(tags) == 0 && more {
			// Its pages go on in a way of its own. Whoever asked would believe to be at the end, or ask for this page for ever.
			return nil, false, read, refused(e.host, "does not list its tags from where it is asked to", nil)
		}
	}
	if n > 0 && len(tags) > n {
		tags, more = tags[:n], true
	}
	return tags, more, read, nil
}

// parseTags reads a list of tags and leaves out what is none.
func (e *endpoint) parseTags(body []byte) ([]string, error) {
	var page struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, refused(e.host, "sends a list of tags that is malformed", nil)
	}
	tags := make([]string, 0, len(page.Tags))
	for _, tag := range page.Tags {
		if oci.ValidTag(tag) {
			tags = append(tags, tag)
		}
	}
	return tags, nil
}

// nextPage returns where a list goes on; nil at its end. It goes on in the same repository at the same endpoint, or we do not.
func (e *endpoint) nextPage(req request, header http.Header) (*url.URL, error) {
	link := nextLink(header)
	if link == "" {
		return nil, nil
	}
	next, err := e.url(req).Parse(link)
	if err != nil || next.User != nil || !e.isAPI(next) || !strings.HasPrefix(next.Path, "/v2/"+req.repo+"/") {
		return nil, refused(e.host, "continues a list in another place", errLeak)
	}
	next.Fragment, next.RawFragment = "", ""
	return next, nil
}

// nextLink returns the target of the first link with the relation "next" (RFC 8288); empty when there is none.
func nextLink(header http.Header) string {
	for _, value := range header.Values("Link") {
		for value != "" {
			_, rest, found := strings.Cut(value, "<")
			target, rest, closed := strings.Cut(rest, ">")
			if !found || !closed {
				break
			}
			var params string
			params, value = cutUnquoted(rest, ',')
			if isNext(params) {
				return target
			}
		}
	}
	return ""
}

// cutUnquoted splits s around the first separator outside quotes.
func cutUnquoted(s string, separator byte) (before, after string) {
	quoted := false
	for i := range len(s) {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == separator && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// isNext reports whether the parameters of a link give it the relation "next".
func isNext(params string) bool {
	for params != "" {
		var param string
		param, params = cutUnquoted(params, ';')
		key, value, _ := strings.Cut(param, "=")
		if !strings.EqualFold(strings.TrimSpace(key), "rel") {
			continue
		}
		for relation := range strings.FieldsSeq(strings.Trim(strings.TrimSpace(value), `"`)) {
			if strings.EqualFold(relation, "next") {
				return true
			}
		}
	}
	return false
}
