package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

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

// Referrers returns the manifests that repo's upstream says refer to subject, in its order. Whether they do, and are what they say
// they are, only reading them tells. Those with a digest we cannot check are left out. Nil means that there are none.
//
// Errors: DENIED, [oci.ErrDigestInvalid], [oci.ErrUnauthorized], [oci.ErrRateLimited], [oci.ErrUnavailable]; [oci.ErrNotFound] when
// the upstream does not know the API, and only then may a caller look for the fallback tag instead: every other error, more
// pages than are read among them, says nothing about which referrers there are.
func (rs *Registries) Referrers(ctx context.Context, repo oci.Repository, subject oci.Digest) ([]oci.Descriptor, error) {
	r, err := rs.readable(repo)
	if err != nil {
		return nil, err
	}
	if _, err := oci.ParseDigest(subject.String()); err != nil {
		return nil, err
	}
	var found []oci.Descriptor
	err = r.ask(ctx, KindReferrers, func(ctx context.Context, e *endpoint) (n int64, err error) {
		found, n, err = e.referrers(ctx, repo, subject)
		return n, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing referrers of %s in %s: %w", subject, repo, err)
	}
	return found, nil
}

func (e *endpoint) referrers(ctx context.Context, repo oci.Repository, subject oci.Digest) (found []oci.Descriptor, n int64, err error) {
	req := request{
		kind: KindReferrers, method: http.MethodGet, repo: repo.Path, path: "referrers/" + subject.String(), accept: []string{oci.MediaTypeIndex},
	}
	for range maxPages {
		body, header, err := e.get(ctx, req, maxPageBytes)
		if err != nil {
			return nil, n, err
		}
		n += int64(len(body))
		page, err := e.parseReferrers(body, header)
		if err != nil {
			return nil, n, err
		}
		found = append(found, page...)
		next, err := e.nextPage(req, header)
		if err != nil || next == nil {
			return found, n, err
		}
		req.at = next
	}
	return nil, n, refused(e.host, fmt.Sprintf("lists referrers on more than %d pages", maxPages), oci.ErrTooLarge)
}

// parseReferrers reads one page. A page of another type is what servers answer that take the path for something else.
func (e *endpoint) parseReferrers(body []byte, header http.Header) ([]oci.Descriptor, error) {
	if oci.BaseMediaType(header.Get("Content-Type")) != oci.MediaTypeIndex {
		return nil, missing(e.host, KindReferrers)
	}
	var page struct {
		Manifests []oci.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, refused(e.host, "sends a list of referrers that is malformed", nil)
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
// them. At most n are asked for, or as many as the upstream likes if n is 0, that come after last, or from the beginning if last
// is empty. An upstream may ignore both.
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
	err = r.ask(ctx, KindTags, func(ctx context.Context, e *endpoint) (int64, error) {
		body, header, err := e.get(ctx, req, maxPageBytes)
		if err != nil {
			return 0, err
		}
		more = nextLink(header) != ""
		tags, err = e.parseTags(body)
		return int64(len(body)), err
	})
	if err != nil {
		return nil, false, fmt.Errorf("listing tags of %s: %w", repo, err)
	}
	return tags, more, nil
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
