{% test unique_rows(model, key, column='window_start', kind='timestamp') %}
{#- Duplicate keys within the window. -#}
select {{ key | join(', ') }}, count(*) as copies
from {{ model }}
{% if column %}where {{ in_window(column, kind=kind) }}{% endif %}
group by {{ key | join(', ') }}
having count(*) > 1
{% endtest %}
