package notify

import (
	"encoding/json"
	"fmt"
	"time"
)

// typePrefix stands in front of types, as it says whose they are (CloudEvents 1.0.2, type).
const typePrefix = "com.github.tidewaiter."

// mediaType is that of one event as JSON (CloudEvents JSON event format, 3).
const mediaType = "application/cloudevents+json; charset=utf-8"

// cloudEvent is an event as it is written.
type cloudEvent struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	Subject         string          `json:"subject,omitempty"`
	Time            string          `json:"time"` // RFC 3339
	DataContentType string          `json:"datacontenttype,omitempty"`
	Data            json.RawMessage `json:"data,omitempty"`
}

// omitted stands for data that could not be passed on.
const omitted = `{"omitted":true}`

// encodeData returns v as JSON. After an error there is something that says that there was more.
func encodeData(v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	data, err := json.Marshal(v)
	if err == nil && len(data) > maxDataBytes {
		err = fmt.Errorf("it has %d bytes, of at most %d", len(data), maxDataBytes)
	}
	if err != nil {
		return json.RawMessage(omitted), fmt.Errorf("encoding an event: %w", err)
	}
	return data, nil
}

// encode returns p, which happened at, as a CloudEvent.
func encode(p Published, source string, at time.Time, data json.RawMessage) []byte {
	e := cloudEvent{
		SpecVersion: "1.0", ID: p.ID, Source: source, Type: typePrefix + string(p.Type), Subject: p.Subject,
		Time: at.UTC().Format(time.RFC3339Nano), Data: data,
	}
	if data != nil {
		e.DataContentType = "application/json"
	}
	body, err := json.Marshal(e)
	if err != nil { // data was written by encodeData, and the rest are texts
		panic("notify: " + err.Error())
	}
	return body
}
