package access

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// maxGlobBytes bounds a pattern over names: the longest subject (255 bytes) and room for the issuer's own escapes.
const maxGlobBytes = 1024

// glob is a pattern over names, anchored at both ends: '*' stands for any run of characters without '/' and ':', which is what
// subjects are composed with, and '**' for any run at all. The zero value matches nothing.
type glob struct {
	text    string
	pattern *regexp.Regexp // nil when there is no '*' in text
}

// parseGlob returns the pattern text describes. '***' is refused: it is more likely a slip than a wish.
func parseGlob(text string) (glob, error) {
	switch {
	case text == "":
		return glob{}, errors.New("an empty pattern matches nothing; ** matches everything")
	case len(text) > maxGlobBytes:
		return glob{}, fmt.Errorf("a pattern of more than %d bytes", maxGlobBytes)
	case strings.Contains(text, "***"):
		return glob{}, fmt.Errorf("pattern %q has three stars in a row", text)
	case !strings.Contains(text, "*"):
		return glob{text: text}, nil
	}
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for i, wide := range strings.Split(text, "**") {
		if i > 0 {
			b.WriteString(`.*`)
		}
		for j, literal := range strings.Split(wide, "*") {
			if j > 0 {
				b.WriteString(`[^/:]*`)
			}
			b.WriteString(regexp.QuoteMeta(literal))
		}
	}
	b.WriteString(`\z`)
	pattern, err := regexp.Compile(b.String())
	if err != nil { // text is not UTF-8
		return glob{}, fmt.Errorf("pattern %q: %w", text, err)
	}
	return glob{text: text, pattern: pattern}, nil
}

// match reports whether the whole of name fits. Names are never empty.
func (g glob) match(name string) bool {
	if g.pattern == nil {
		return name != "" && g.text == name
	}
	return g.pattern.MatchString(name)
}
