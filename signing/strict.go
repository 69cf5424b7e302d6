package signing

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// members reads raw as one JSON object and returns its members, their values as they were written. It refuses what two readers
// could understand differently: a key that occurs twice, a key that differs from one of known only by case (Go takes one for the
// other, most readers do not), and anything after the end.
func members(raw []byte, known ...string) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	found := map[string]json.RawMessage{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, errors.New("not JSON")
		}
		key, _ := token.(string) // between members the decoder yields nothing but keys
		if _, ok := found[key]; ok {
			return nil, fmt.Errorf("the key %.60q occurs twice", key)
		}
		for _, k := range known {
			if key != k && strings.EqualFold(key, k) {
				return nil, fmt.Errorf("the key %.60q differs from %q only by case", key, k)
			}
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, errors.New("not JSON")
		}
		found[key] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("not JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows its end")
	}
	return found, nil
}

// only reports, as an error, a member of found that is none of known.
func only(found map[string]json.RawMessage, known ...string) error {
	unknown := len(found)
	for _, k := range known {
		if _, ok := found[k]; ok {
			unknown--
		}
	}
	if unknown > 0 {
		return fmt.Errorf("it has %d members other than %s", unknown, strings.Join(known, ", "))
	}
	return nil
}

// text returns the string raw holds; an absent member, null and every other type are refused.
func text(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", errors.New("not a string")
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", errors.New("not a string")
	}
	return s, nil
}

// plain returns s for people to read: bounded, on one line, without characters that a terminal acts upon. What made a signature
// unacceptable may have been written by whoever wants it accepted.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s[:min(len(s), 4*maxWhyBytes)])
	if len(s) <= maxWhyBytes {
		return s
	}
	end := maxWhyBytes
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}
